"""Verify that only the page's own requests get through: to its name, from its origin, with its token."""

from __future__ import annotations

import asyncio
import socket
from http.client import HTTPConnection

import pytest

from neonym.web.guard import COOKIE, Guard

NAMES = frozenset({"127.0.0.1", "localhost"})
OWN = {"host": "127.0.0.1:7817"}


async def application(scope, receive, send) -> None:
    """Answer everything."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


def ask(headers: dict[str, str], kind: str = "http", query: str = "", token: str = "") -> list[dict]:
    """Return what the guarded application answers to a request."""
    sent: list[dict] = []

    async def receive():
        return {"type": f"{kind}.connect"}

    async def send(message):
        sent.append(message)

    scope = {
        "type": kind, "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }  # fmt: skip
    guard = Guard(application, frozenset() if token else NAMES, token)
    asyncio.run(guard(scope, receive, send))
    return sent


def is_allowed(sent: list[dict]) -> bool:
    return sent[0].get("status") == 200 or sent[0]["type"] == "websocket.accept"


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


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_a_token_is_needed_from_elsewhere(kind):
    host = {"host": "192.168.0.7:7817"}
    assert not is_allowed(ask(host, kind, token="secret"))
    assert not is_allowed(ask(host, kind, "token=wrong", "secret"))
    assert not is_allowed(ask({**host, "cookie": f"{COOKIE}=wrong"}, kind, token="secret"))
    assert is_allowed(ask(host, kind, "token=secret", "secret"))
    assert is_allowed(ask({**host, "cookie": f'x={{"a":"b"}}; {COOKIE}=secret'}, kind, token="secret"))


def test_the_token_in_the_url_becomes_a_cookie_that_no_script_can_read():
    headers = dict(ask({"host": "a:1"}, query="token=secret", token="secret")[0]["headers"])
    assert headers[b"set-cookie"] == f"{COOKIE}=secret; HttpOnly; SameSite=Strict; Path=/".encode()
    assert b"frame-ancestors 'none'" in headers[b"Content-Security-Policy"]


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
    server = start("--listen", "0.0.0.0")
    url = next(line.split()[-1] for line in server.log.read_text().splitlines() if "token=" in line)
    port, token = int(server.url.rpartition(":")[2]), url.rpartition("token=")[2]
    assert len(token) >= 32
    assert status(port, {}) == 403
    assert status(port, {}, f"/?token={token}") == 200
    assert status(port, {"Cookie": f"{COOKIE}={token}"}, "/runs") == 200


def status(port: int, headers: dict[str, str], path: str = "/") -> int:
    """Return the status of a request."""
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path, headers=headers)
        return connection.getresponse().status
    finally:
        connection.close()
