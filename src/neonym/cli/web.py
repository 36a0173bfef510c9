"""Run `neonym web`, the page for people who do not type commands."""

from __future__ import annotations

import os
import sys
import webbrowser
from pathlib import Path
from threading import Timer
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field

from neonym.config.flags import parse_flags
from neonym.errors import UserError
from neonym.extras import install_command, is_installed

if TYPE_CHECKING:
    from neonym.web.home import Home
    from neonym.web.server import Address

DESCRIPTION = "Open the page: teach words, watch them learn and try them in a browser. It listens on this machine only."
SECONDS = 0.5  # from the start of the server until it listens


class WebFlags(BaseModel):
    """The flags of the page."""

    folder: str = Field("~/neonym", description="The home folder: words, images, the queue. It is made if needed.")
    port: int = Field(7817, ge=0, le=65535, description="The port; 0 chooses a free one.")
    no_browser: bool = Field(False, description="Do not open the page in the browser.")
    listen: str | None = Field(None, description="Another address to listen on, such as 0.0.0.0 for a network.")
    no_token: bool = Field(False, description="Let all users of this machine open the page, without a token.")


def has_screen() -> bool:
    """Return whether there is a screen for a browser: on a server, a browser of the terminal would be started."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def main(argv: list[str], prog: str) -> int:
    """Serve the page until Ctrl-C, and return the exit code."""
    flags = parse_flags(WebFlags, argv, prog, DESCRIPTION)
    if not is_installed("nicegui"):
        raise UserError("needs the package nicegui", "neonym web", f"Install it: {install_command('nicegui')}")
    os.environ.setdefault("NICEGUI_STORAGE_PATH", str(Path(flags.folder).expanduser() / "cache" / "page"))
    from neonym.web.home import Home
    from neonym.web.server import address_of, serve

    home = Home(Path(flags.folder))
    address = address_of(flags.listen, flags.port, "" if flags.no_token else home.token())
    with home.claimed():
        print(
            f"Neonym's page: {address.url}\nHome folder: {home.root}\nTo close it, press Ctrl-C. Runs go on.",
            flush=True,
        )
        serve(home, address, open_browser if has_screen() and not flags.no_browser else None)
    return 0


def open_browser(home: Home, address: Address) -> None:
    """Open the page in the browser as soon as the server listens.

    All users of the machine see the command line of the browser, so it gets a file that leads to the address with the
    token.
    """
    redirection = f'<!DOCTYPE html><title>Neonym</title><meta http-equiv="refresh" content="0; url={address.url}">'
    url = home.write_private("open.html", redirection).as_uri() if address.token else address.url
    Timer(SECONDS, webbrowser.open, (url,)).start()
