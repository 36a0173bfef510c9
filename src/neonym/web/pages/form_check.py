"""The check in the form of a new word, which runs while the user types."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from nicegui import ui

from neonym.web import work
from neonym.web.pages.form_state import FormState
from neonym.web.pages.frame import dim, problem_line, telling
from neonym.web.work import Checked

PAUSE = 0.6  # seconds after the last change until the settings are checked


class Check:
    """The check of the form: what it finds is shown below the fields and here. `after` is awaited after each check."""

    def __init__(self, form: FormState, after: Callable[[], Awaitable[None]]):
        self.form, self.after = form, after
        self.pending: asyncio.Task[None] | None = None

    def build(self, train_button: ui.button) -> None:
        """Make the place of what is found; the button is enabled while nothing stands against training."""
        self.train_button = train_button
        self.findings = ui.column().classes("w-full").props('aria-live="polite"')

    def soon(self) -> None:
        """Check the settings a moment after the last change."""
        self.train_button.disable()
        if self.pending is not None:
            self.pending.cancel()
        self.pending = asyncio.create_task(self.later())

    async def later(self) -> None:
        """Wait until nothing changes, then check, and show what was found."""
        await asyncio.sleep(PAUSE)
        if self.findings.is_deleted:  # the tab was closed
            return
        self.findings.clear()
        with self.findings:
            dim("Checking...")
            await telling(self.check)()

    async def check(self) -> None:
        """Check the settings, and show what was found."""
        self.show(await self.form.state.workers.do("checks", work.check, self.form.settled()))
        await self.after()

    def missing(self) -> dict[str, str]:
        """Return what the user has not come to yet, by the setting that the check would complain about."""
        values = self.form.draft.values
        missing = {} if self.form.word or values.get("dataset_config") else {"token_string": "Name the new word (1)."}
        if not values.get("train_data_dir") and not values.get("dataset_config"):
            missing["dataset_config"] = "Choose its images (2)."
        return missing

    def show(self, checked: Checked) -> None:
        """Show problems where they are: an error below the field of its setting, and all of them here."""
        missing = self.missing()
        below: dict[str, str] = {}
        for finding in checked.findings:
            if finding.severity == "error" and finding.setting not in missing:
                below.setdefault(finding.setting, finding.text)
        for name, field in self.form.fields.items():
            if hasattr(field, "error"):
                field.error = below.get(name)
        self.findings.clear()
        with self.findings:
            for text in missing.values():
                problem_line("note", text)
            for finding in checked.findings:
                if finding.setting not in missing:
                    problem_line(finding.severity, finding.text)
            if checked.ready:
                problem_line("note", "Ready to train.")
        self.train_button.set_enabled(checked.ready)
