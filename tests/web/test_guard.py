"""Verify that only the page's own requests get through: to its name, from its origin, with its token."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from http.client import HTTPConnection

import pytest
from playwright.sync_api import Page, expect

from neonym import UserError
from neonym.web.guard import Guard
from neonym.web.home import Home
from neonym.web.server import address_of
from support.coroutines import finished

COOKIE = "neonym-token-1"
NAMES = frozenset({"127.0.0.1", "localhost"})
OWN = {"host": "127.0.0.1:7817"}


async def application(scope, receive, send) -> None:
    """Answer everything."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


def ask(
    headers: dict[str, str], kind: str = "http", query: str = "", token: str = "", path: str = "/", method: str = "GET"
) -> list[dict]:
    """Return what the guarded application answers to a request."""
    sent: list[dict] = []

    async def receive():
        return {"type": f"{kind}.connect"}

    async def send(message):
        sent.append(message)

    scope = {
        "type": kind, "query_string": query.encode(), "path": path, **({"method": method} if kind == "http" else {}),
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }  # fmt: skip
    guard = Guard(application, frozenset() if token else NAMES, token, port=1)
    finished(guard(scope, receive, send))
    return sent


def is_allowed(sent: list[dict]) -> bool:
    return sent[0].get("status") in (200, 303) or sent[0]["type"] == "websocket.accept"


def headers_of(sent: list[dict]) -> dict[str, str]:
    return {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        (OWN, True),
        ({"host": "localhost:7817", "origin": "http://localhost:7817"}, True),
        ({**OWN, "origin": "http://evil.example"}, False),
        ({**OWN, "origin": "http://127.0.0.1:9999"}, False),
        ({**OWN, "origin": "null"}, False),
        ({**OWN, "origin": "http://["}, False),
        ({"host": "[:1"}, False),
        ({"host": "evil.example"}, False),
        ({"host": "127.0.0.1.evil.example:7817"}, False),
        ({}, False),
        ({**OWN, "sec-fetch-site": "cross-site"}, False),
        ({**OWN, "sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors"}, False),
        ({**OWN, "sec-fetch-site": "same-origin"}, True),
        ({**OWN, "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, True),
    ],
)
def test_requests_of_other_sites_are_refused(kind, headers, allowed):
    assert is_allowed(ask(headers, kind)) is allowed


@pytest.mark.parametrize(("method", "allowed"), [("GET", True), ("HEAD", True), ("POST", False), ("DELETE", False)])
def test_only_links_of_other_sites_open_the_page_and_not_their_forms(method, allowed):
    headers = {**OWN, "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert is_allowed(ask(headers, method=method)) is allowed


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_a_token_is_needed_from_elsewhere(kind):
    host = {"host": "192.168.0.7:7817"}
    assert not is_allowed(ask(host, kind, token="secret"))
    assert not is_allowed(ask(host, kind, "token=wrong", "secret"))
    assert not is_allowed(ask({**host, "cookie": f"{COOKIE}=wrong"}, kind, token="secret"))
    assert is_allowed(ask(host, kind, "token=secret", "secret"))
    assert is_allowed(ask({**host, "cookie": f'x={{"a":"b"}}; {COOKIE}=secret'}, kind, token="secret"))


def test_the_token_in_the_url_becomes_a_cookie_and_leaves_the_address():
    sent = ask({"host": "a:1"}, query="x=%ff&token=secret&y", token="secret", path="/word a")
    headers = headers_of(sent)
    assert (sent[0]["status"], headers["location"]) == (303, "/word%20a?x=%ff&y")
    name, value, *attributes = re.split("=|; ", headers["set-cookie"])
    assert (name, value) == (COOKIE, "secret")
    assert {"HttpOnly", "Lax", "Path"} <= set(attributes)
    assert headers["referrer-policy"] == "no-referrer"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]


def test_nobody_is_sent_to_another_site():
    sent = ask({"host": "a:1"}, query="token=secret", token="secret", path="//evil.example/")
    assert headers_of(sent)["location"] == "/evil.example/"


def test_only_an_address_that_is_opened_is_redirected():
    sent = ask({"host": "a:1"}, query="token=secret", token="secret", method="POST")
    assert sent[0]["status"] == 200


def test_a_cookie_of_another_port_opens_nothing():
    assert not is_allowed(ask({"host": "a:1", "cookie": "neonym-token-2=secret"}, token="secret"))


def test_a_running_page_listens_on_this_machine_only_and_refuses_others(start):
    server = start()
    port = int(server.url.rpartition(":")[2])
    assert status(port, {}) == 200
    assert status(port, {"Host": "evil.example"}) == 403
    assert status(port, {"Origin": "http://evil.example"}) == 403
    assert status(port, {"Origin": "http://evil.example"}, "/_nicegui_ws/socket.io/?EIO=4&transport=polling") == 403
    addresses = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} - {"127.0.0.1"}
    for address in addresses:
        with socket.socket() as trial:
            trial.settimeout(2)
            assert socket.socket.connect_ex(trial, (address, port)) != 0


def test_another_address_needs_the_token_that_it_prints(start):
    server = start("--listen", "0.0.0.0", token=True)
    port, token = int(server.url.rpartition(":")[2]), server.printed.rpartition("token=")[2]
    assert len(token) >= 32
    assert status(port, {}) == 403
    assert status(port, {}, f"/?token={token}") == 303
    assert status(port, {"Cookie": f"neonym-token-{port}={token}"}, "/runs") == 200


def test_nobody_opens_a_page_to_a_network_without_a_token():
    with pytest.raises(UserError, match=r"--listen=0\.0\.0\.0 needs a token.* Leave out --no_token"):
        address_of("0.0.0.0", 0, "")


def test_the_token_is_kept_for_its_owner_alone(tmp_path):
    home = Home(tmp_path / "home")
    token = home.token()
    assert len(token) >= 32
    assert Home(home.root).token() == token
    if os.name == "posix":
        assert (home.root / "token").stat().st_mode & 0o777 == 0o600
    (home.root / "token").write_text("")
    assert len(home.token()) >= 32
    assert home.token() != token


def test_other_users_of_this_machine_need_the_token_which_leaves_the_address_bar(start, tab: Page):
    first = start(token=True)
    tab.goto(first.url)
    expect(tab.get_by_text("This request is not allowed")).to_be_visible()
    tab.goto(first.printed)
    expect(tab.get_by_text("No words yet")).to_be_visible()
    assert tab.url == f"{first.url}/"
    tab.get_by_role("button", name="Teach a new word").click()  # by the WebSocket, which has the cookie
    tab.wait_for_url(f"{first.url}/new")
    first.stop()
    port = first.url.rpartition(":")[2]
    start(f"--port={port}", token=True)
    tab.goto(f"{first.url}/runs")  # a bookmark of the same home folder
    expect(tab.get_by_text("No runs yet")).to_be_visible()


@pytest.mark.skipif(os.name != "posix", reason="the browser is a script")
def test_the_command_line_of_the_browser_does_not_tell_the_token(tab: Page, tmp_path):
    (tmp_path / "browser").write_text(
        f'#!/bin/sh\nprintf %s "$1" > {tmp_path}/url.part\nmv {tmp_path}/url.part {tmp_path}/url\n'
    )
    (tmp_path / "browser").chmod(0o700)
    environment = {name: value for name, value in os.environ.items() if "PYTEST" not in name}  # NiceGUI reads them
    environment |= {"BROWSER": str(tmp_path / "browser"), "DISPLAY": ":99", "HOME": str(tmp_path / "user")}
    command = [sys.executable, "-m", "neonym", "web", f"--folder={tmp_path / 'home'}", "--port=0"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    try:
        end = time.monotonic() + 60
        while not (tmp_path / "url").is_file() and time.monotonic() < end:
            time.sleep(0.1)
        url = (tmp_path / "url").read_text()
        assert url.startswith("file://")
        assert (tmp_path / "home" / "open.html").stat().st_mode & 0o777 == 0o600
        tab.goto(url)
        expect(tab.get_by_text("No words yet")).to_be_visible()
        assert "token" not in tab.url
    finally:
        process.kill()
        process.wait(30)


def status(port: int, headers: dict[str, str], path: str = "/") -> int:
    """Return the status of a request."""
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path, headers=headers)
        return connection.getresponse().status
    finally:
        connection.close()
