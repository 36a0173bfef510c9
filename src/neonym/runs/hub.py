"""Files of a run on the Hugging Face Hub, where `--huggingface_repo_id` names a repository."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from neonym.config.output_settings import HubSettings
from neonym.errors import UserError
from neonym.runs.dispatcher import Dispatcher
from neonym.runs.events import Event, Failed, Finished, Opened, Saved, Stopped


class HubUploads:
    """Uploads every file that a setting asked for. A failed upload is noted and the training goes on: the file is on the disk.

    Files are read when they are saved, so one that is removed later still arrives whole.
    """

    def __init__(self, settings: HubSettings, events: Dispatcher):
        self.settings, self.events = settings, events
        self.queue = ThreadPoolExecutor(1)  # starts its thread with the first upload
        self.uploads: list[Future[str]] = []  # what each has to say, nothing if it went well

    def __call__(self, event: Event) -> None:
        """Upload what an event tells of. Raises UserError if the repository cannot be used."""
        match event:
            case Opened():
                self.open()
            case Saved(file=file, in_run_folder=False):
                self.upload(file)
            case Finished(files=files):
                for file in files:
                    self.upload(file)
                self.close()
            case Stopped() | Failed():
                self.close()

    def open(self) -> None:
        """Make sure that there is a repository, before anything is trained for it. Raises UserError."""
        from huggingface_hub import HfApi

        is_public = (self.settings.huggingface_repo_visibility or "private").lower() == "public"
        try:
            HfApi(token=self.settings.huggingface_token).create_repo(
                self.settings.huggingface_repo_id or "", repo_type=self.settings.huggingface_repo_type,
                private=not is_public, exist_ok=True,
            )  # fmt: skip
        except Exception as error:  # the library's, its HTTP library's, the system's
            fix = "Check the name, the token and the network, or leave --huggingface_repo_id out"
            raise UserError(f"the repository cannot be used ({error})", "--huggingface_repo_id", fix) from error

    def upload(self, path: Path) -> None:
        """Upload a file or a state folder, with `--async_upload` in the background."""
        if path.is_dir() and not self.settings.save_state_to_huggingface:
            return
        try:
            files = sorted(path.iterdir()) if path.is_dir() else [path]
            contents = {file.relative_to(path.parent).as_posix(): file.read_bytes() for file in files}
        except OSError as error:  # somebody has removed it
            self.events.note(f"warning: {path} was not uploaded ({error.strerror})")
            return
        self.uploads += [self.queue.submit(self.send, name, content) for name, content in contents.items()]
        self.report(wait=not self.settings.async_upload)

    def report(self, wait: bool) -> None:
        """Note the uploads that failed: those that have ended, or, after a wait, all."""
        ended = [upload for upload in self.uploads if wait or upload.done()]
        self.uploads = [upload for upload in self.uploads if upload not in ended]
        for upload in ended:
            if complaint := upload.result():
                self.events.note(complaint)

    def close(self) -> None:
        """Wait for every upload."""
        self.report(wait=True)
        self.queue.shutdown()

    def send(self, name: str, content: bytes) -> str:
        """Upload one file, in the thread of the uploads. Return what went wrong, or nothing."""
        from huggingface_hub import HfApi

        folder = (self.settings.huggingface_path_in_repo or "").strip("/")
        target = f"{folder}/{name}" if folder else name
        try:
            HfApi(token=self.settings.huggingface_token).upload_file(
                path_or_fileobj=content, path_in_repo=target, repo_id=self.settings.huggingface_repo_id or "",
                repo_type=self.settings.huggingface_repo_type, commit_message=f"Upload {target}",
            )  # fmt: skip
        except Exception as error:  # the library's, its HTTP library's, the system's
            return f"warning: {target} was not uploaded ({error}); it is on the disk"
        return ""
