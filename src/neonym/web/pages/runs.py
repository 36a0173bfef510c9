"""The queue and the runs that have ended."""

from __future__ import annotations

from nicegui import ui

from neonym.web.pages.fleet import fleet_cards
from neonym.web.pages.frame import card, confirmed, date_of, dim, duration, page, telling
from neonym.web.queue import ACTIVE, OPEN, Entry, Queue
from neonym.web.run_log import RunLog
from neonym.web.state import State

COLOURS = {"running": "primary", "finished": "positive", "failed": "negative", "interrupted": "warning"}
EVERY = 1.0  # seconds between two looks


def runs_page(state: State) -> None:
    """Add the page to the application."""

    @ui.page("/runs")
    def show() -> None:
        with page("Runs", "/runs"):
            list_of_runs = RunList(state)
            with ui.row().classes("items-center gap-2"):
                switch = pause_switch(state.queue)
                names = ", ".join(state.queue.devices)
                dim(f"One run at a time on each of: {names}." if "," in names else "One run at a time.")
            list_of_runs.build()
            fleet_cards(state)
            ui.timer(EVERY, list_of_runs.refresh)
            ui.timer(EVERY, lambda: switch.set_value(state.queue.paused))  # another tab may have changed it


def pause_switch(queue: Queue) -> ui.switch:
    """Show the switch that pauses the queue, which shows whether it is paused even if the disk refuses a change."""

    def pause() -> None:
        try:
            if switch.value != queue.paused:
                queue.pause(not queue.paused)
        finally:
            switch.value = queue.paused

    switch = ui.switch("Pause the queue", value=queue.paused, on_change=telling(pause))
    return switch


class RunList:
    """The list of runs, which is drawn again when an entry changes, and whose progress is updated in place."""

    def __init__(self, state: State):
        self.state = state
        self.shown: list[tuple[str, str, float]] | None = None
        self.lines: dict[str, ui.label] = {}

    def build(self) -> None:
        """Make the place of the list, and fill it."""
        self.box = ui.column().classes("w-full gap-3")
        self.refresh()

    def refresh(self) -> None:
        """Show what has changed."""
        entries = self.state.queue.entries()
        shown = [(entry.id, entry.status, entry.order) for entry in entries]
        if shown != self.shown:
            self.shown = shown
            self.draw(entries)
        for entry in entries:
            if entry.status == "running" and entry.id in self.lines:
                self.lines[entry.id].text = progress_text(self.state.queue.log(entry))

    def draw(self, entries: list[Entry]) -> None:
        """Draw all runs: those that are open in their order, then the others, the newest first."""
        self.box.clear()
        self.lines.clear()
        open_runs = [entry for entry in entries if entry.status in OPEN]
        ended = sorted((entry for entry in entries if entry.status not in OPEN), key=lambda entry: -entry.order)
        with self.box:
            if not entries:
                with card("No runs yet"):
                    ui.label("A run teaches one new word. It goes on when you close this page.")
                    ui.button("Teach a new word", icon="add", on_click=lambda: ui.navigate.to("/new"))
            for entry in [*open_runs, *ended]:
                self.draw_run(entry)

    def draw_run(self, entry: Entry) -> None:
        """Draw one run."""
        queue = self.state.queue
        with ui.element("section").classes("n-card row items-center justify-between no-wrap-md"):
            with ui.column().classes("gap-1"):
                with ui.row().classes("items-center gap-2"):
                    ui.link(entry.token, f"/run/{entry.id}").classes("n-link").style("font-weight: 650")
                    ui.badge(entry.status, color=COLOURS.get(entry.status, "info"))
                self.lines[entry.id] = dim(line_of(entry, queue.log(entry)))
            with ui.row().classes("gap-1"):
                if entry.status == "waiting":
                    self.button("arrow_upward", "earlier", entry, lambda: queue.move(entry.id, -1))
                    self.button("arrow_downward", "later", entry, lambda: queue.move(entry.id, 1))
                if entry.status in ("waiting", "running"):
                    self.button("stop", "stop", entry, lambda: queue.stop(entry.id))
                if entry.status in ("stopped", "interrupted", "failed"):
                    self.button("play_arrow", "go on with", entry, lambda: queue.go_on(entry.id))
                if entry.status not in OPEN:

                    async def remove() -> None:
                        if await confirmed(f"Remove {entry.token} from this list? Its files stay.", "Remove"):
                            queue.remove(entry.id)
                            self.refresh()

                    self.button("close", "remove from the list:", entry, remove)

    def button(self, icon: str, action: str, entry: Entry, handler) -> None:
        """Draw a button that does something to a run."""

        async def handled() -> None:
            await telling(handler)()
            self.refresh()

        button = ui.button(icon=icon, on_click=handled).props("flat round dense")
        button.props["aria-label"] = f"{action} {entry.token}"


def line_of(entry: Entry, log: RunLog) -> str:
    """Return what a run does or how it has ended, in one line."""
    if entry.status in ACTIVE:
        return progress_text(log)
    ended = [", ".join(str(verdict.get("word", "")) for verdict in log.verdicts)] if entry.status == "finished" else []
    ended += [f"step {log.step} of {log.steps}"] if log.steps else []
    return ", ".join([*filter(None, ended), f"queued {date_of(entry.queued)}"])


def progress_text(log: RunLog) -> str:
    """Return what a run does, in one line."""
    done, total = log.progress
    if log.status == "encoded":
        return f"encoding images: {done} of {total}"
    if log.status == "judging":
        return f"measuring what was learned: {done} of {total}"
    if log.status not in ("started", "step"):
        return "starting" if not log.has_ended else log.status
    parts = [f"step {log.step} of {log.steps}"]
    if log.losses:
        parts.append(f"loss {log.losses[-1][1]:.4f}")
    if (speed := log.images_per_second) is not None:
        parts.append(f"{speed:.1f} images/s")
    if (left := log.seconds_left) is not None:
        parts.append(f"{duration(left)} left")
    return ", ".join(parts)
