"""Uploads of a run's files to the Hugging Face Hub, into the repository that `--huggingface_repo_id` names."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from neonym.config.output_settings import HubSettings
from neonym.errors import RefuseRun
from neonym.runs.dispatcher import Dispatcher
from neonym.runs.events import Event, Failed, Finished, Opened, Saved, Stopped


class HubUploads:
    """A listener that uploads every file that the settings request.

    After a failed upload, a warning is emitted and training continues: the file is on the disk. Files are read when
    they are saved, so a file that is removed later is still uploaded whole.
    """

    def __init__(self, settings: HubSettings, events: Dispatcher):
        self.settings, self.events = settings, events
        self.queue = ThreadPoolExecutor(1)  # starts its thread with the first upload
        self.is_open = False
        self.uploads: list[Future[str]] = []  # with a warning, empty if the upload succeeded

    def __call__(self, event: Event) -> None:
        """Upload the files of an event. Raises RefuseRun if the repository cannot be used."""
        match event:
            case Opened():
                self.open()
            case Saved(file=file, in_run_folder=False):
                self.upload(file)
            case Finished(files=files):
                for file in files if self.is_open else ():  # a run that had finished before is not opened
                    self.upload(file)
                self.close()
            case Stopped() | Failed():
                self.close()

    def open(self) -> None:
        """Create the repository unless it exists, before training starts. Raises RefuseRun."""
        from huggingface_hub import HfApi

        is_public = (self.settings.huggingface_repo_visibility or "private").lower() == "public"
        try:
            HfApi(token=self.settings.huggingface_token).create_repo(
                self.settings.huggingface_repo_id or "", repo_type=self.settings.huggingface_repo_type,
                private=not is_public, exist_ok=True,
            )  # fmt: skip
        except Exception as error:  # the library's, its HTTP library's, the system's
            fix = "Check the name, the token and the network, or leave out --huggingface_repo_id"
            raise RefuseRun(f"the repository cannot be used ({error})", "--huggingface_repo_id", fix) from error
        self.is_open = True

    def upload(self, path: Path) -> None:
        """Upload a file or a state folder; with `--async_upload`, in the background."""
        if path.is_dir() and not self.settings.save_state_to_huggingface:
            return
        try:
            files = sorted(path.iterdir()) if path.is_dir() else [path]
            contents = {file.relative_to(path.parent).as_posix(): file.read_bytes() for file in files}
        except OSError as error:  # it may have been removed
            self.events.warn(f"{path} was not uploaded ({error.strerror})")
            return
        self.uploads += [self.queue.submit(self.send, name, content) for name, content in contents.items()]
        self.report(wait=not self.settings.async_upload)

    def report(self, wait: bool) -> None:
        """Emit warnings about failed uploads: of those that have ended or, if `wait`, of all."""
        ended = [upload for upload in self.uploads if wait or upload.done()]
        self.uploads = [upload for upload in self.uploads if upload not in ended]
        for upload in ended:
            if warning := upload.result():
                self.events.warn(warning)

    def close(self) -> None:
        """Wait for all uploads, and end their thread."""
        self.report(wait=True)
        self.queue.shutdown()

    def send(self, name: str, content: bytes) -> str:
        """Upload one file, in the upload thread. Return a warning if it failed, else an empty text."""
        from huggingface_hub import HfApi

        folder = (self.settings.huggingface_path_in_repo or "").strip("/")
        target = f"{folder}/{name}" if folder else name
        try:
            HfApi(token=self.settings.huggingface_token).upload_file(
                path_or_fileobj=content, path_in_repo=target, repo_id=self.settings.huggingface_repo_id or "",
                repo_type=self.settings.huggingface_repo_type, commit_message=f"Upload {target}",
            )  # fmt: skip
        except Exception as error:  # the library's, its HTTP library's, the system's
            return f"{target} was not uploaded ({error}); it is on the disk"
        return ""
