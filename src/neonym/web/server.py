"""The server of the page: its pages and routes behind the guard, and the queue that it drives."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass

from nicegui import app, background_tasks, ui

from neonym import UserError
from neonym.web.guard import Guard
from neonym.web.home import Home
from neonym.web.images import serve_images
from neonym.web.model_list import ModelList
from neonym.web.pages.bin import bin_page
from neonym.web.pages.fleet import fleet_page
from neonym.web.pages.new_word import new_word_page
from neonym.web.pages.run import run_page
from neonym.web.pages.runs import runs_page
from neonym.web.pages.word import word_page
from neonym.web.pages.words import words_page
from neonym.web.queue import Queue
from neonym.web.state import State
from neonym.web.trial_device import gpus_in_use
from neonym.web.work import Workers, recognise

LOCAL = "127.0.0.1"
NAMES = frozenset({"127.0.0.1", "localhost", "::1"})
EVERYWHERE = ("0.0.0.0", "::")  # addresses that stand for all of this machine's
EVERY = 1.0  # seconds between two looks at the processes


@dataclass(frozen=True)
class Address:
    """The address at which the page listens, and the token that a request needs; "" if it needs none."""

    host: str
    port: int
    token: str

    @property
    def url(self) -> str:
        """The URL to open on this machine."""
        host = LOCAL if self.host in EVERYWHERE else f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/{f'?token={self.token}' if self.token else ''}"

    @property
    def hosts(self) -> frozenset[str]:
        """The names by which the page may be called; any in a network, where addresses have many."""
        return NAMES if self.host in NAMES else frozenset()


def address_of(listen: str | None, port: int, token: str) -> Address:
    """Return where to listen. Raises UserError if the port is taken or the address is none of this machine's."""
    host = listen or LOCAL
    kind = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(kind, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((host, port))
            port = trial.getsockname()[1]
    except (OSError, OverflowError) as error:
        what = f"cannot be listened on ({getattr(error, 'strerror', None) or error})"
        fix = "Another page may be open: close it, or choose another --port"
        raise UserError(what, f"{host}:{port}", fix) from error
    if not token and host not in NAMES:
        what = "needs a token, because everybody in the network can reach it"
        raise UserError(what, f"--listen={host}", "Leave out --no_token")
    return Address(host, port, token)


def serve(home: Home, address: Address, started: Callable[[Home, Address], object] | None = None) -> None:
    """Serve the page until the process is stopped; `started` is called as soon as it runs."""
    workers = Workers()
    state = State(home, Queue(home), workers, ModelList(home, workers))
    serve_images(app, home)
    for add in (words_page, new_word_page, runs_page, run_page, word_page, bin_page, fleet_page):
        add(state)
    guard = {"hosts": address.hosts, "token": address.token, "port": address.port}
    app.add_middleware(Guard, **guard)  # pyright: ignore[reportArgumentType]
    app.on_startup(lambda: background_tasks.create(drive(state)))
    app.on_startup(lambda: background_tasks.create(warm(state)))
    if started is not None:
        app.on_startup(lambda: started(home, address))
    app.on_shutdown(workers.close)
    ui.run(
        host=address.host, port=address.port, title="Neonym", reload=False, show=False, show_welcome_message=False,
        uvicorn_logging_level="warning", dark=None, language="en-US",
    )  # fmt: skip


async def warm(state: State) -> None:
    """Let the process for checks import what it needs, and the models of this machine be known when they are asked for."""
    await state.workers.do("checks", recognise, "builtin:emoji")
    await state.models.look_once()


async def drive(state: State) -> None:
    """Follow the processes of the queue as long as the server runs, and make room for them."""
    while True:
        try:
            await asyncio.to_thread(state.queue.tick)
            state.workers.release(await asyncio.to_thread(gpus_in_use, state.queue))
        except Exception as error:  # a full disk, a damaged file: the next look may succeed
            print(f"The queue could not be looked at: {error}", flush=True)
        await asyncio.sleep(EVERY)
