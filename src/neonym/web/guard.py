"""Keep other web sites and other machines away from the page.

A page on 127.0.0.1 is within reach of every web site that the user's browser shows: it can send requests to it, and
with a host name that it lets point to 127.0.0.1, read the answers. So the host and the origin of every request must be
the page's own.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

from starlette.requests import cookie_parser

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

COOKIE = "neonym-token"
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; font-src 'self' data:; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Guard:
    """An ASGI application that lets only the page's own requests through to another one."""

    def __init__(self, app: App, hosts: frozenset[str], token: str = ""):
        self.app, self.hosts, self.token = app, hosts, token

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it with 403."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if self.is_foreign(headers) or not self.has_token(scope, headers):
            await refuse(scope, receive, send)
            return
        given = self.token and token_in_query(scope)
        await self.app(scope, receive, with_headers(send, self.token if given else ""))

    def is_foreign(self, headers: dict[str, str]) -> bool:
        """Return whether a request comes from another site, or was sent to another name than the page's."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if self.hosts and host_name(host) not in self.hosts:
            return True
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return headers.get("sec-fetch-mode") != "navigate"  # a link from elsewhere may open the page
        return origin is not None and origin not in (f"http://{host}", f"https://{host}")

    def has_token(self, scope: Message, headers: dict[str, str]) -> bool:
        """Return whether a request has the token, in the URL or in the cookie that the first answer sets."""
        if not self.token:
            return True
        found = token_in_query(scope) or cookie_parser(headers.get("cookie", "")).get(COOKIE, "")
        return secrets.compare_digest(found.encode(), self.token.encode())


def host_name(host: str) -> str:
    """Return a host without its port, "" if it is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def token_in_query(scope: Message) -> str:
    """Return the token in the URL of a request, or ""."""
    return parse_qs(scope.get("query_string", b"").decode("latin-1")).get("token", [""])[0]


def with_headers(send: Send, token: str) -> Send:
    """Return a `send` that adds the security headers to an answer, and a cookie with the token if there is one."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            added = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            if token:
                added.append((b"set-cookie", f"{COOKIE}={token}; HttpOnly; SameSite=Strict; Path=/".encode()))
            message = {**message, "headers": [*message.get("headers", []), *added]}
        await send(message)

    return sending


async def refuse(scope: Message, receive: Receive, send: Send) -> None:
    """Answer a request with 403, or close a WebSocket before it is accepted."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008})
        return
    body = b"This request is not allowed: open the page by the address that `neonym web` printed.\n"
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": body})
