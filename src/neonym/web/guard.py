"""Keep other web sites, other users of the machine and other machines away from the page.

A page on 127.0.0.1 is within reach of every web site that the user's browser shows: it can send requests to it, and
with a host name that it lets point to 127.0.0.1, read the answers. So the host and the origin of every request must be
the page's own. Every user of the machine can reach it, too, so a request needs the token in the address that was
printed; the first one with it gets a cookie and a redirection to the same address without the token.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import quote, unquote_to_bytes, urlsplit

from starlette.requests import cookie_parser

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

TOKEN = b"token="  # of a query
A_YEAR = 365 * 24 * 3600  # seconds
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; font-src 'self' data:; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Guard:
    """An ASGI application that lets only the page's own requests through to another one.

    `hosts` are the names by which the page may be called, any if there are none; `token` is what a request needs, ""
    for nothing. The name of the cookie has the port: cookies of all servers on a host are sent to each of them.
    """

    def __init__(self, app: App, hosts: frozenset[str], token: str = "", port: int = 0):
        self.app, self.hosts, self.token = app, hosts, token
        self.cookie = f"neonym-token-{port}"

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it with 403."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        send = with_headers(send)
        given = token_in_query(scope)
        if self.is_foreign(headers, scope.get("method", "GET")) or not self.is_token(
            given or self.token_in_cookie(headers)
        ):
            await refuse(scope, receive, send)
        elif self.token and given and scope.get("method") == "GET":
            await self.redirect(scope, send)
        else:
            await self.app(scope, receive, send)

    def is_foreign(self, headers: dict[str, str], method: str) -> bool:
        """Return whether a request comes from another site, or was sent to another name than the page's."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if self.hosts and host_name(host) not in self.hosts:
            return True
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            is_link = headers.get("sec-fetch-mode") == "navigate" and method in ("GET", "HEAD")
            return not is_link  # from elsewhere, which may open the page
        return origin is not None and origin not in (f"http://{host}", f"https://{host}")

    def token_in_cookie(self, headers: dict[str, str]) -> str:
        """Return the token in the cookie of a request, "" if it has none."""
        return cookie_parser(headers.get("cookie", "")).get(self.cookie, "")

    def is_token(self, given: str) -> bool:
        """Return whether a text is the token, if one is needed."""
        return not self.token or secrets.compare_digest(given.encode(), self.token.encode())

    async def redirect(self, scope: Message, send: Send) -> None:
        """Answer with the cookie and the address without the token, which would stay in the history of the browser."""
        rest = b"&".join(part for part in parts_of_query(scope) if not part.startswith(TOKEN)).decode("latin-1")
        target = quote("/" + scope["path"].lstrip("/")) + (f"?{rest}" if rest else "")  # "//" would be another site
        # Lax, as a browser keeps a strict cookie back if a link in another page, such as a chat, leads here
        cookie = f"{self.cookie}={self.token}; HttpOnly; SameSite=Lax; Path=/; Max-Age={A_YEAR}"
        headers = {"Location": target, "Set-Cookie": cookie, "Cache-Control": "no-store", "Content-Length": "0"}
        encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": 303, "headers": encoded})
        await send({"type": "http.response.body", "body": b""})


def host_name(host: str) -> str:
    """Return a host without its port, "" if it is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def parts_of_query(scope: Message) -> list[bytes]:
    """Return the parts of the query of a request, as they are written."""
    query = scope.get("query_string", b"")
    return query.split(b"&") if query else []


def token_in_query(scope: Message) -> str:
    """Return the token in the URL of a request, "" if it has none."""
    found = next((part for part in parts_of_query(scope) if part.startswith(TOKEN)), TOKEN)
    return unquote_to_bytes(found.removeprefix(TOKEN)).decode("latin-1")


def with_headers(send: Send) -> Send:
    """Return a `send` that adds the security headers to an answer."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            added = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
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
