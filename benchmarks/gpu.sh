#!/usr/bin/env bash
# Measure training and generation on a GPU, and run the tests that need one:
#
#     bash benchmarks/gpu.sh [core|more] [FOLDER OF THE RESULTS] [PYTHON]
#
# `core` (the default) takes about ten minutes; `more` measures bf16, compiled blocks and what fits smaller cards.
# Writes one JSON file for each benchmark, with the name of the card in it, and prints tables for docs/training.md.
set -uo pipefail
cd "$(dirname "$0")/.."
part=${1:-core} out=${2:-benchmarks/results/gpu} python=${3:-.venv/bin/python}
models=$(mktemp -d)
trap 'rm -rf "$models"' EXIT
mkdir -p "$out"

measure() { # NAME COMMAND...: go on if one fails
  local name=$1
  shift
  echo "== $name"
  timeout 240 "$python" -m "$@" 2> "$out/$name.err" || echo "failed: see $out/$name.err"
}

step() { measure "$1" benchmarks.step --device cuda --processes 1 --models_dir "$models" --json "$out/$1.json" "${@:2}"; }

sd1=(--model sd1 --resolution 512 --steps 20)
if [ "$part" = more ]; then
  step step-sd1-bf16 "${sd1[@]}" --precisions bf16 --batch_sizes 1 4 --cases eager neonym compiled
  measure fits benchmarks.fits --measure --models sd1 sdxl --gigabytes 4 6 8 12 --models_dir "$models" --json "$out/fits.json"
  exit
fi
step step-sd1 "${sd1[@]}" --precisions fp16 --batch_sizes 1 --cases plain cached eager neonym
NEONYM_TEST_CUDA=1 timeout 180 "$python" -m pytest --quiet tests/training/test_cuda.py \
  tests/generation/test_prediction_graphs.py
step step-sd1-batches "${sd1[@]}" --precisions fp16 --batch_sizes 4 16 --cases plain cached neonym channels_last
step step-sdxl --model sdxl --resolution 1024 --steps 10 --precisions fp16 --batch_sizes 1 --cases plain cached neonym
measure lanes benchmarks.lanes --device cuda --model "$models/sd1" --words 16 --steps 20 --lanes 1 16 --processes 0 \
  --json "$out/lanes.json"
step step-emoji --steps 40 --cases plain eager neonym
measure generate benchmarks.generate --model sd1 --models_dir "$models" --precision fp16 --side 512 --images 4 --times 2 \
  --samplers ddim --json "$out/generate.json"
