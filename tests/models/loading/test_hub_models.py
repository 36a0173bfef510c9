"""Verify models of the hub with a stand-in server: what is downloaded, what is not, and what is reported."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.checkpoints import make_parts, save_folder
from support import ROOT
from support.data_sets import make_images

COMMIT = "1" * 40


class StandIn(BaseHTTPRequestHandler):
    """A stand-in for the parts of the hub's interface that downloads use. Repositories are folders under `home`."""

    home: Path
    fetched: list

    def do_GET(self):
        parts = unquote(urlparse(self.path).path).strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            self.about(self.home / parts[2] / parts[3], parts[4:5] == ["tree"])
        else:
            self.file(parts)

    do_HEAD = do_GET  # noqa: N815

    def about(self, repository: Path, tree: bool):
        if not repository.is_dir():
            return self.answer(b'{"error": "Repository not found"}', 404, {"X-Error-Code": "RepoNotFound"})
        files = [p for p in sorted(repository.rglob("*")) if p.is_file()]
        listed = [
            {"type": "file", "path": str(p.relative_to(repository)), "size": p.stat().st_size, "oid": mark(p)}
            for p in files
        ]
        about = {"id": "/".join(repository.parts[-2:]), "sha": COMMIT, "siblings": []}
        return self.answer(json.dumps(listed if tree else about).encode())

    def file(self, parts: list[str]):
        path = self.home / parts[0] / parts[1] / "/".join(parts[4:])
        if self.command == "GET":
            self.fetched.append("/".join(parts[4:]))
        self.answer(path.read_bytes(), headers={"ETag": f'"{mark(path)}"', "X-Repo-Commit": COMMIT})

    def answer(self, content: bytes, code: int = 200, headers: dict | None = None):
        self.send_response(code)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *args):
        pass


def mark(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


@pytest.fixture
def hub(tmp_path):
    """Yield the address, the folder of repositories, and the names of the files that were downloaded."""
    handler = type("Handler", (StandIn,), {"home": tmp_path / "repositories", "fetched": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", handler.home, handler.fetched
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def neonym(hub, tmp_path):
    """Return a function that runs commands with the stand-in hub, and returns their exit codes and output."""
    images = make_images(tmp_path / "p", 2, size=(64, 64))
    train = [f"--train_data_dir={images}", "--token_string=mychar4", "--resolution=64", "--max_train_steps=1",
             "--eval_samples=8", "--cpu", f"--output_dir={tmp_path / 'out'}"]  # fmt: skip

    def run(*commands: list[str], address: str = hub[0]) -> tuple[list[int], str]:
        full = [[*c, *train] if c[0] in ("train", "check") else c for c in commands]
        code = "import sys, json; from neonym.cli.main import main\nfor c in json.load(sys.stdin): print('exit', main(c), flush=True)"
        environment = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1",
                       "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}  # fmt: skip
        done = subprocess.run([sys.executable, "-c", code], input=json.dumps(full), cwd=ROOT, env=environment,
                              capture_output=True, text=True, timeout=300, check=False)  # fmt: skip
        codes = [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("exit ")]
        assert len(codes) == len(commands), done.stderr
        assert "Traceback" not in done.stderr
        return codes, done.stdout + done.stderr

    return run


def weights(names: list[str]) -> set[str]:
    return {name for name in names if name.endswith((".safetensors", ".bin", ".ckpt"))}


def test_only_what_is_needed_is_downloaded(hub, neonym):
    """One form of each part is downloaded once, and no weights for a check.

    The cache then suffices without the network.
    """
    _, home, got = hub
    parts, repository = make_parts("sd1", tiny=True, dtype=torch.float32), home / "someone" / "tiny"
    save_folder(parts, "sd1", repository, "epsilon")
    for name, part in parts.items():
        (plain,) = (repository / name).glob("*.safetensors")
        part.half().save_pretrained(repository / name, variant="fp16")
        shutil.copy(plain, plain.with_name(f"{plain.stem}.non_ema.safetensors"))
        torch.save(
            load_file(plain),
            plain.with_name("pytorch_model.bin" if name == "text_encoder" else "diffusion_pytorch_model.bin"),
        )
    plain = repository / "text_encoder" / "model.safetensors"
    save_file({**load_file(plain)}, repository / "v1-5-pruned.safetensors")
    (repository / "safety_checker").mkdir()
    shutil.copy(plain, repository / "safety_checker" / "model.safetensors")
    model = "--pretrained_model_name_or_path=someone/tiny"
    codes, said = neonym(["check", model], ["check", model, "--json"], ["train", model, "--offline"])
    assert codes == [0, 0, 2], said
    assert not weights(got)
    assert not any("safety_checker" in name for name in got)
    assert "unet/diffusion_pytorch_model.safetensors, text_encoder/model.safetensors, vae/diffusion" in said
    codes, said = neonym(["train", model])
    assert set(codes) <= {0, 3}, said
    usual = {
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
    }
    assert weights(got) == usual
    got.clear()
    nowhere = "http://127.0.0.1:9"
    generate = [
        "generate",
        "--ckpt=someone/tiny",
        "--prompt=a cat",
        "--steps=1",
        "--W=64",
        "--H=64",
        f"--outdir={home.parent / 'o'}",
    ]
    codes, said = neonym(["train", model], generate, [*generate, "--offline"], address=nowhere)
    assert codes == [0, 0, 0], said
    assert "finished already" in said  # the first run is recognised: its model is the same one
    codes, said = neonym([*generate, "--variant=fp16"], [*generate, "--variant=q4"])
    assert codes == [0, 2], said
    assert "no weights of the variant q4" in said
    assert weights(got) == {name.replace(".safetensors", ".fp16.safetensors") for name in usual}


def test_repositories_with_pickles_and_unsupported_repositories(hub, neonym, tmp_path):
    """The `.bin` files of old repositories are downloaded and read as data. Other repositories are refused by name."""
    _, home, got = hub
    save_folder(make_parts("sd1", tiny=True, dtype=torch.float32), "sd1", home / "someone" / "old", "epsilon")
    for part, file in {
        "unet": "diffusion_pytorch_model",
        "vae": "diffusion_pytorch_model",
        "text_encoder": "pytorch_model",
    }.items():
        (plain,) = (home / "someone" / "old" / part).glob("*.safetensors")
        torch.save(load_file(plain), plain.with_name(f"{file}.bin"))
        plain.unlink()
    (home / "someone" / "one").mkdir()
    (home / "someone" / "one" / "model.safetensors").write_bytes(b"x")
    (home / "someone" / "flux").mkdir()
    index = {"_class_name": "FluxPipeline", "transformer": ["diffusers", "FluxTransformer2DModel"]}
    (home / "someone" / "flux" / "model_index.json").write_text(json.dumps(index))
    shutil.copytree(home / "someone" / "old" / "vae", home / "someone" / "vae")
    (home / "someone" / "vae" / "other.safetensors").write_bytes(b"x")
    generate = ["generate", "--prompt=a cat", "--steps=1", "--W=64", "--H=64", f"--outdir={tmp_path / 'o'}"]
    codes, said = neonym(
        [*generate, "--ckpt=someone/old", "--vae=someone/vae"], [*generate, "--ckpt=someone/one"],
        [*generate, "--ckpt=someone/flux"], [*generate, "--ckpt=someone/none"],
        [*generate, "--ckpt=someone/old", "--vae=someone/one"],
    )  # fmt: skip
    assert codes == [0, 2, 2, 2, 2], said
    assert "Download one of its files and name it: model.safetensors" in said
    assert "is a FluxPipeline, which is not supported" in said
    assert "cannot be downloaded from the hub" in said
    assert "is not a VAE: it has no config.json" in said
    assert weights(got) == {
        "unet/diffusion_pytorch_model.bin",
        "diffusion_pytorch_model.bin",
        "text_encoder/pytorch_model.bin",
    }
