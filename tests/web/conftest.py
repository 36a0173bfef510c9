"""The page as a real server process, and a real Chromium that opens it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.request import HTTPCookieProcessor, build_opener

import pytest

from support.network import no_network as no_network

SECONDS = 60  # until a server answers
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@dataclass
class Server:
    """A running page."""

    process: subprocess.Popen[str]
    printed: str  # the URL with the token, if it needs one
    home: Path
    log: Path

    @property
    def url(self) -> str:
        """The URL without a token and a slash."""
        return self.printed.partition("?")[0].rstrip("/")

    def stop(self) -> int:
        """Stop the server as Ctrl-C does, and return its exit code."""
        self.process.send_signal(2)
        return self.process.wait(30)

    def kill(self) -> None:
        """Kill the server."""
        self.process.kill()
        self.process.wait(30)


def start_server(home: Path, *flags: str) -> Server:
    """Start `neonym web` with these flags on a free port, and return it when it answers."""
    environment = {name: value for name, value in os.environ.items() if "PYTEST" not in name}  # NiceGUI reads them
    user = home.with_name("user")  # whose folder has no models
    environment.setdefault("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    environment |= {
        "HOME": str(user),
        "USERPROFILE": str(user),
        "HF_HUB_CACHE": str(user / "hub"),
        "OMP_NUM_THREADS": "1",
    }
    log = home.with_name(f"{home.name}-{time.time_ns()}.log")
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "neonym", "web", f"--folder={home}", "--port=0", *flags],
            stdout=output, stderr=subprocess.STDOUT, text=True, env=environment,
        )  # fmt: skip
    end = time.monotonic() + SECONDS
    while time.monotonic() < end and process.poll() is None:
        url = next((line.split()[-1] for line in log.read_text().splitlines() if line.startswith("Neonym's page:")), "")
        try:
            if url:
                build_opener(HTTPCookieProcessor()).open(url, timeout=2).read()
                return Server(process, url, home, log)
        except OSError:
            pass
        time.sleep(0.1)
    process.kill()
    process.wait(30)
    raise AssertionError(f"the page did not start: {log.read_text()}")


@pytest.fixture
def start(tmp_path) -> Iterator:
    """Return a function that starts a page, without a token unless it is told; all are stopped afterwards."""
    servers: list[Server] = []

    def starting(*flags: str, home: Path | None = None, token: bool = False) -> Server:
        servers.append(start_server(home or tmp_path / "home", *(() if token else ("--no_token",)), *flags))
        return servers[-1]

    yield starting
    for server in servers:
        if server.process.poll() is None:
            server.kill()


@pytest.fixture(scope="session")
def browser() -> Iterator:
    """Return a headless Chromium; without one, the test is skipped and says so."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium: install the package chromium")
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=30_000)
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def tab(browser) -> Iterator:
    """Return a new tab, whose test fails if a script on the page fails."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    page = context.new_page()
    page.set_default_timeout(30_000)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    context.close()
    assert not errors
