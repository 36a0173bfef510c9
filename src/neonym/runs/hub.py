"""Files of a run on the Hugging Face hub, if `--huggingface_repo_id` is given. Nothing is reached for otherwise."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from neonym.config.run import HubSettings
from neonym.errors import UserError


class Hub:
    """Uploads what is saved. A failed upload is said and the training goes on: the file is on the disk.

    Files are read when they are handed over, so one that is removed later still arrives whole.
    """

    def __init__(self, settings: HubSettings, say: Callable[[str], None]):
        self.settings, self.say = settings, say
        self.queue = ThreadPoolExecutor(1)
        self.waiting: list[Future[None]] = []

    @property
    def on(self) -> bool:
        return self.settings.huggingface_repo_id is not None

    def open(self) -> None:
        """Make sure that there is a repository, before anything is trained for it. Raises UserError."""
        if not self.on:
            return
        from huggingface_hub import HfApi

        public = (self.settings.huggingface_repo_visibility or "private").lower() == "public"
        try:
            HfApi(token=self.settings.huggingface_token).create_repo(
                self.settings.huggingface_repo_id or "", repo_type=self.settings.huggingface_repo_type,
                private=not public, exist_ok=True,
            )  # fmt: skip
        except Exception as error:  # the library's, its HTTP library's, the system's
            fix = "Check the name, the token and the network, or leave --huggingface_repo_id out"
            raise UserError(f"the repository cannot be used ({error})", "--huggingface_repo_id", fix) from error

    def upload(self, path: Path) -> None:
        """A file, or a state folder. With `--async_upload` in the background."""
        if not self.on or (path.is_dir() and not self.settings.save_state_to_huggingface):
            return
        try:
            files = sorted(path.iterdir()) if path.is_dir() else [path]
            contents = {file.relative_to(path.parent).as_posix(): file.read_bytes() for file in files}
        except OSError as error:  # somebody has removed it
            self.say(f"warning: {path} was not uploaded ({error.strerror})")
            return
        for inside, content in contents.items():
            sent = self.queue.submit(self._send, inside, content)
            if self.settings.async_upload:
                self.waiting.append(sent)
            else:
                sent.result()

    def close(self) -> None:
        """Wait for everything that is on its way."""
        self.queue.shutdown(wait=True)

    def _send(self, name: str, content: bytes) -> None:
        from huggingface_hub import HfApi

        folder = (self.settings.huggingface_path_in_repo or "").strip("/")
        target = f"{folder}/{name}" if folder else name
        try:
            HfApi(token=self.settings.huggingface_token).upload_file(
                path_or_fileobj=content, path_in_repo=target, repo_id=self.settings.huggingface_repo_id or "",
                repo_type=self.settings.huggingface_repo_type, commit_message=f"Upload {target}",
            )  # fmt: skip
        except Exception as error:  # the library's, its HTTP library's, the system's
            self.say(f"warning: {target} was not uploaded ({error}); it is on the disk")


def fetch_state(text: str, settings: HubSettings, file: str) -> Path:
    """`owner/repo/path[:revision[:type]]` -> the folder of the state, in the hub's cache. Raises UserError."""
    from huggingface_hub import hf_hub_download

    place, revision, kind = [*text.split(":"), "", ""][:3]
    owner, _, rest = place.partition("/")
    name, _, folder = rest.partition("/")
    try:
        found = hf_hub_download(
            f"{owner}/{name}", f"{folder}/{file}" if folder else file, revision=revision or None,
            repo_type=kind or None, token=settings.huggingface_token,
        )  # fmt: skip
    except Exception as error:  # the library's, its HTTP library's, the system's
        fix = "Write owner/repo/folder, or owner/repo/folder:revision"
        raise UserError(f"the state cannot be fetched ({error})", f"--resume {text}", fix) from error
    return Path(found).parent
