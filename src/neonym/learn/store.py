"""Files of a run: the embedding files with their metadata, their retention, the state."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from neonym._version import __version__
from neonym.config.run import RunConfig
from neonym.formats import write_embedding
from neonym.learn.events import as_json
from neonym.learn.prepare import Prepared
from neonym.learn.rows import Concept
from neonym.learn.state import Saved, TrainState, read_state, save_state
from neonym.types import Embedding

ARCHITECTURES = {
    ("sd1", "epsilon"): "stable-diffusion-v1",
    ("sd1", "v_prediction"): "stable-diffusion-v1",
    ("sd2", "epsilon"): "stable-diffusion-v2-512",
    ("sd2", "v_prediction"): "stable-diffusion-v2-768-v",
}
WITHOUT_EFFECT = {"save": True, "cache": True, "dataset": {"dataset_config", "train_data_dir", "reg_data_dir"}}


def settings_of(run: RunConfig) -> dict[str, str]:
    """Every setting that decides the result, as text. The pictures have a fingerprint of their own."""
    tree = run.model_dump(exclude=WITHOUT_EFFECT)
    return {name: str(value) for section in tree.values() for name, value in section.items()}


class CheckpointStore:
    """Writes and finds the files of one run."""

    def __init__(self, ready: Prepared):
        self.save, self.folder = ready.run.save, ready.run_folder()
        self.names = dict(zip(ready.tokens, ready.file_names(), strict=True))
        self.state_file = self.folder / "state.safetensors"
        self.metadata = self._metadata(ready)

    def _metadata(self, ready: Prepared) -> dict[str, str]:
        source, settings = ready.source, settings_of(ready.run)
        assert source is not None
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        width, height = ready.datasets[0].buckets.resolution
        return {
            "modelspec.sai_model_spec": "1.0.1",
            "modelspec.architecture": f"{ARCHITECTURES[source.family, source.prediction_type]}/textual-inversion",
            "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
            "modelspec.resolution": f"{width}x{height}",
            "modelspec.prediction_type": "v" if source.prediction_type == "v_prediction" else "epsilon",
            "neonym.version": __version__,
            "neonym.base_model": source.name,
            "neonym.base_model_hash": source.text_hash(),
            "neonym.family": source.family,
            "neonym.clip_skip": str(ready.run.model.clip_skip),
            "neonym.seed": str(ready.run.optim.seed),
            "neonym.learning_rate": str(ready.run.optim.learning_rate),
            "neonym.settings_digest": digest,
        }

    def prepare(self) -> None:
        """Make the folders now, so that a path that cannot be written is known before training."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.save.restart:
            self.state_file.unlink(missing_ok=True)

    def latest(self, fingerprint: dict[str, str]) -> Saved | None:
        """The state of an interrupted run, if there is one. Raises UserError if it was another run's."""
        return read_state(self.state_file, fingerprint)

    def save_state(self, state: TrainState) -> None:
        save_state(state, self.state_file)

    def save_step(self, state: TrainState) -> list[Path]:
        """The files of `--save_every_n_steps`; files older than `--save_last_n_steps` go."""
        files = [self.write(concept, state.step, f"-step{state.step:08d}") for concept in state.concepts]
        if self.save.save_last_n_steps is not None:
            for name in self.names.values():
                self.remove_before(name, state.step - self.save.save_last_n_steps)
        return files

    def remove_before(self, name: str, first: int) -> None:
        pattern = re.compile(re.escape(name) + r"-step(\d{8})\." + self.save.save_model_as)
        for file in Path(self.save.output_dir).iterdir():
            match = pattern.fullmatch(file.name)
            if match and int(match[1]) < first:
                file.unlink(missing_ok=True)

    def write(self, concept: Concept, step: int, suffix: str = "") -> Path:
        """One embedding file. Raises FormatError."""
        name = self.names[concept.token]
        counts = {len(rows) for rows in concept.rows.values()}
        metadata = {
            **self.metadata,
            "modelspec.title": name,
            "modelspec.trigger_phrase": concept.token,
            "neonym.vectors": str(max(counts)),
            "neonym.init_word": concept.init_word,
            "neonym.steps": str(step),
        }
        vectors = {encoder: rows.detach() for encoder, rows in concept.rows.items()}
        path = Path(self.save.output_dir) / f"{name}{suffix}.{self.save.save_model_as}"
        return write_embedding(Embedding(concept.token, vectors, metadata), path)

    def finish(self, state: TrainState, verdicts: list[dict]) -> list[Path]:
        """The final files and the verdict. The state goes last: until then the run can be resumed."""
        files = [self.write(concept, state.step) for concept in state.concepts]
        part = self.folder / "verdict.json.part"
        part.write_text(as_json(verdicts, indent=2) + "\n", encoding="utf-8")
        part.replace(self.folder / "verdict.json")
        self.state_file.unlink(missing_ok=True)
        return files
