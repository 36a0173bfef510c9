"""One run: its progress while it learns, and what came out of it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlencode

from nicegui import background_tasks, ui

from neonym.web.pages.frame import card, confirmed, dim, heading, page, picture, problem_line, telling, verdict_chip
from neonym.web.pages.other_words import OtherWords
from neonym.web.pages.runs import COLOURS, line_of
from neonym.web.pages.saved_steps import SavedSteps
from neonym.web.processes import gpu_memory
from neonym.web.queue import OPEN, Entry
from neonym.web.run_log import RunLog
from neonym.web.saved_state import saved_step
from neonym.web.state import State

EVERY = 1.0  # seconds between two looks
GPU_EVERY = 5  # looks between two questions about the memory of a GPU
SHEETS = 12  # of sample images on the page
GREY, FAINT = "#808b98", "rgba(128, 139, 152, 0.25)"  # of the chart, legible in both colour schemes
PATIENCE = 20.0  # seconds that a run may take to stop before the page offers to end it
STILL_RUNS = (
    "It was asked to stop, and still runs: a step of a large model can take a minute. If nothing moves, end it."
)


def run_page(state: State) -> None:
    """Add the page to the application."""

    @ui.page("/run/{id}")
    def show(id: str) -> None:
        entry = state.queue.entry(id)
        with page(entry.token if entry else "No such run", "/runs"):
            if entry is None:
                with card():
                    ui.label("This run is not in the list any more.")
                    ui.link("All runs", "/runs").classes("n-link")
                return
            view = RunView(state, entry)
            view.build()
            ui.timer(EVERY, view.refresh)


class RunView:
    """The view of one run, which follows its events."""

    def __init__(self, state: State, entry: Entry):
        self.state, self.entry = state, entry
        self.drawn: dict[str, Any] = {}  # what was drawn last, by the part of the page
        self.looks, self.gpu = 0, ""
        self.others = OtherWords(entry)

    @property
    def log(self) -> RunLog:
        """The reports of the run."""
        return self.state.queue.log(self.entry)

    def build(self) -> None:
        """Make the parts of the page, and fill them."""
        with card():
            with ui.row().classes("items-center gap-2"):
                self.badge = ui.badge(self.entry.status)
                self.line = ui.label("").props('role="status"')
            self.bar = ui.linear_progress(0, show_value=False).props('aria-label="progress"')
            self.memory = dim("")
            self.buttons = ui.row().classes("gap-2")
        self.result = ui.column().classes("w-full gap-3")
        self.others.build()
        with card("Loss"):
            dim("Lower is better. The evaluation is measured on the same images each time; training jumps up and down.")
            self.chart = (
                ui.echart(chart_options()).classes("w-full").style("height: 260px; min-width: 0; overflow: hidden")
            )
            self.chart.props('role="img" aria-label="training and evaluation loss by step"')
        self.samples = ui.column().classes("w-full gap-3")
        self.steps = SavedSteps(self.state, self.entry, lambda: self.log)
        self.steps.build()
        with ui.expansion("Log and settings").classes("w-full n-card"):
            self.notes = ui.column().classes("w-full gap-1")
            heading("Settings")
            ui.label(self.state.queue.settings(self.entry.id)).classes("n-mono")
        self.refresh()

    def refresh(self) -> None:
        """Show what has changed since the last time."""
        self.entry = self.state.queue.entry(self.entry.id) or self.entry
        log = self.log
        self.badge.text = self.entry.status
        is_open = self.entry.status in OPEN
        self.line.text = self.waiting_text() if self.entry.status == "waiting" else line_of(self.entry, log)
        self.bar.value = log.step / log.steps if log.steps else 0.0
        self.badge.props(f"color={COLOURS.get(self.entry.status, 'info')}")
        self.bar.set_visibility(is_open)
        self.memory.text = self.memory_text() if self.entry.status == "running" else ""
        self.memory.set_visibility(bool(self.memory.text))
        self.buttons.set_visibility(self.entry.status != "finished")
        self.others.refresh(self.entry)
        self.looks += 1
        self.update("buttons", (self.entry.status, self.hangs), self.draw_buttons)
        self.update("chart", (len(log.losses), len(log.evaluations)), self.draw_chart)
        self.update("samples", len(log.samples), self.draw_samples)
        if not self.steps.is_generating:
            self.update("steps", (len(log.saved), len(log.samples)), self.steps.draw)
        self.update("notes", len(log.notes), self.draw_notes)
        self.update("result", (self.entry.status, len(log.verdicts)), self.draw_result)

    def update(self, part: str, value: Any, draw: Any) -> None:
        """Draw a part of the page if what it shows has changed."""
        if self.drawn.get(part) != value:
            self.drawn[part] = value
            draw()

    def waiting_text(self) -> str:
        """Return what the run waits for."""
        if self.state.queue.paused:
            return "The queue is paused. Let it go on under Runs."
        active = [entry for entry in self.state.queue.open_entries() if entry.status != "waiting"]
        return f"It starts when {active[0].token} has ended." if active else "It starts in a moment."

    def memory_text(self) -> str:
        """Return the memory that the run uses."""
        if self.entry.device.startswith("cuda:"):
            if self.looks % GPU_EVERY == 0:  # this takes a process, so it is done in the background
                background_tasks.create(self.look_at_gpu())
            return self.gpu
        return f"{self.entry.device}: {self.entry.process.memory() / 1e9:.1f} GB of memory"

    async def look_at_gpu(self) -> None:
        """Find out how much of the GPU's memory is in use."""
        found = await asyncio.to_thread(gpu_memory, self.entry.device)
        if found is not None:
            self.gpu = f"{self.entry.device}: {found[0] / 1000:.1f} of {found[1] / 1000:.1f} GB in use"

    @property
    def hangs(self) -> bool:
        """Whether the run was asked to stop a while ago, and still runs."""
        return self.entry.status == "stopping" and time.time() - self.entry.asked > PATIENCE

    def draw_buttons(self) -> None:
        """Draw what can be done now."""
        queue, id = self.state.queue, self.entry.id
        self.buttons.clear()
        with self.buttons:
            if self.entry.status in ("waiting", "running"):
                ui.button("Stop", icon="stop", on_click=telling(lambda: queue.stop(id))).props("outline")
            if self.entry.status == "running":
                self.ask_button("Save now", "save-now", "Keep the word as it is after this step.")
                self.ask_button("Sample now", "sample-now", "Generate the sample images after this step.")
            if self.entry.status in ("stopped", "interrupted", "failed"):
                ui.button("Go on", icon="play_arrow", on_click=telling(lambda: queue.go_on(id)))
            if self.entry.status == "stopping":
                dim("It stops after its current step, and saves its state." if not self.hangs else STILL_RUNS)
            if self.hangs:
                ui.button("End it now", color="negative", on_click=telling(self.end)).props("outline")

    def ask_button(self, text: str, request: Literal["save-now", "sample-now"], help: str) -> None:
        """Draw a button that asks the run for something."""

        def ask() -> None:
            self.state.queue.ask(self.entry.id, request)
            ui.notify("The run does that after its current step.", type="info")

        ui.button(text, on_click=telling(ask)).props("outline").tooltip(help)

    async def end(self) -> None:
        """End the run at once, if the user confirms it."""
        saved, step = saved_step(Path(self.entry.run_folder)), self.log.step
        lost = f"Steps {saved + 1} to {step} are lost." if step > saved else "No steps are lost."
        again = (
            f"The run can go on after step {saved}." if saved else "The run can be started again from its beginning."
        )
        if await confirmed(f"End the process of {self.entry.token} now? {lost} {again}", "End it now"):
            self.state.queue.end(self.entry.id)

    def draw_chart(self) -> None:
        """Draw the curves."""
        log = self.log
        self.chart.options["series"][0]["data"] = [[step, round(loss, 5)] for step, loss in log.curve()]
        self.chart.options["series"][1]["data"] = [[step, round(loss, 5)] for step, loss in log.evaluations]
        self.chart.update()

    def draw_samples(self) -> None:
        """Draw the newest sheets of sample images, each with the images without the word and before training."""
        self.samples.clear()
        sheets = self.log.samples[-SHEETS:]
        if not sheets:
            return
        with self.samples, card("Sample images"):
            dim("Each sheet: without the word, before training, now.")
            with ui.element("div").classes("n-strip"):
                for sample in reversed(sheets):
                    with ui.column().classes("gap-1"):
                        picture(Path(sample["sheet"]), f"sample images at step {sample['step']}")
                        dim(f"step {sample['step']}")

    def draw_notes(self) -> None:
        """Draw what the run has said."""
        self.notes.clear()
        with self.notes:
            for level, text in self.log.notes[-200:]:
                problem_line({"warning": "warning"}.get(level, "note"), text)

    def draw_result(self) -> None:
        """Draw how the run has ended."""
        self.result.clear()
        log = self.log
        with self.result:
            if self.entry.status == "failed":
                with card("It failed"):
                    ui.label(log.error or self.state.queue.output(self.entry.id)).classes("n-text")
            if self.entry.status == "interrupted":
                with card("It was interrupted"):
                    ui.label("The process ended without a word. It can go on from its last saved step.")
                    ui.label(self.state.queue.output(self.entry.id)).classes("n-mono")
            for verdict in log.verdicts if self.entry.status == "finished" else ():
                file = next((file for file in log.files if file.stem == verdict.get("token")), None)
                verdict_card(verdict, file or (log.files[0] if log.files else None))


def verdict_card(verdict: dict[str, Any], file: Path | None) -> None:
    """Show a verdict with its reasons and advice."""
    with card():
        with ui.row().classes("items-center gap-2"):
            heading(str(verdict.get("token", "")))
            verdict_chip(str(verdict.get("word", "")))
        ui.label(str(verdict.get("reason", ""))).classes("n-text")
        if verdict.get("advice"):
            problem_line("warning", str(verdict["advice"]))
        before, after = verdict.get("loss_before"), verdict.get("loss_after")
        if isinstance(before, float) and isinstance(after, float):
            dim(f"evaluation loss {before:.5f} -> {after:.5f} on {verdict.get('evaluated_on', 'the images')}")
        if isinstance(obedience := verdict.get("obedience"), float):
            dim(f"other words change {100 * obedience:.0f} % as much beside it as beside words that the model knows")
        if file is not None:
            ui.button(
                "Look at the word, and try it", on_click=lambda: ui.navigate.to(f"/word?{urlencode({'file': file})}")
            )


def chart_options() -> dict[str, Any]:
    """Return the options of the chart: the training loss and the evaluation loss by step."""
    line = {"type": "line", "showSymbol": False, "data": []}
    axis = {
        "axisLabel": {"color": GREY, "hideOverlap": True},
        "nameTextStyle": {"color": GREY},
        "splitLine": {"lineStyle": {"color": FAINT}},
    }
    return {
        "color": ["#6f8cf0", "#d9730d"],
        "animation": False,
        "grid": {"left": 60, "right": 16, "top": 36, "bottom": 32},
        "legend": {"top": 0, "textStyle": {"color": GREY}},
        "tooltip": {"trigger": "axis"},
        "xAxis": {"type": "value", "name": "step", "minInterval": 1, "max": "dataMax", **axis},
        "yAxis": {"type": "value", "scale": True, **axis},
        "series": [
            {**line, "name": "training", "lineStyle": {"width": 1, "opacity": 0.8}},
            {**line, "name": "evaluation", "showSymbol": True, "lineStyle": {"width": 2}},
        ],
    }
