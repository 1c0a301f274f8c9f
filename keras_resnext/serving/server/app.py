"""The routes: TF Serving's REST interface, its metrics, and the page."""

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from .admission import Gate, check_length
from .monitoring import PATH
from .responses import dump
from .rest import Rest
from .service import Service
from .status import RequestError

logger = logging.getLogger(__name__)

PAGE = Path(__file__).with_name("page")
LINGER = 10.0  # seconds for which the rest of a refused body is read, so that its sender gets to the answer
HEADERS = {
    # Images are shown from blob: addresses, which the page itself makes.
    "content-security-policy": (
        "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "cache-control": "no-cache",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
# As AddCORSHeaders of TF Serving's model_servers/http_rest_api_util.cc; a key adds the headers that carry it.
CORS = {"access-control-allow-origin": "*", "access-control-allow-methods": "POST, GET"}
CORS_HEADERS = ("Content-Type", "Authorization, X-Api-Key")


def create_app(service: Service) -> Any:
    """An ASGI application, which watches the model base as long as it runs."""
    rest, gate, options = Rest(service), Gate(service.options), service.options
    allowed = ", ".join(CORS_HEADERS[: 1 if options.api_key is None else 2])
    cors = {**CORS, "access-control-allow-headers": allowed} if options.cors else {}

    async def interface(request: Request) -> Response:
        started = time.perf_counter()
        unread = _has_body(request.headers)

        async def receive() -> Any:
            nonlocal unread
            message = await request.receive()
            unread = bool(message.get("more_body"))
            return message

        try:
            body = await rest.answer(request.method, request.scope["path"], request.headers, receive)
        except RequestError as error:
            return _error(error, RefusedBody if unread else Response)
        timing = {"server-timing": f"total;dur={(time.perf_counter() - started) * 1e3:.2f}"}
        return Response(body, media_type="application/json", headers=timing)

    async def metrics(_: Request) -> Response:
        return PlainTextResponse(service.metrics.render(service.gauges()))

    async def page(_: Request) -> Response:
        return FileResponse(PAGE / "index.html")

    async def not_there(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        code = {404: "NOT_FOUND", 405: "UNIMPLEMENTED"}.get(error.status_code, "INVALID_ARGUMENT")
        return _error(
            RequestError(code, f"{error.detail}: {request.method} {request.url.path[:200]}", error.status_code)
        )

    async def failed(_: Request, error: Exception) -> Response:
        return _error(RequestError("INTERNAL", f"the server failed: {type(error).__name__}"))

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        watching = asyncio.create_task(service.models.watch())
        yield
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching

    app = Starlette(
        routes=[
            Route("/", page),
            Mount("/page", StaticFiles(directory=PAGE)),
            Route(PATH, metrics),
            Route("/v1/{path:path}", interface, methods=["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]),
        ],
        exception_handlers={HTTPException: not_there, Exception: failed},
        lifespan=lifespan,
    )

    async def guarded(scope: Any, receive: Any, send: Any) -> None:
        """Lets in who may ask; the page itself is no secret and asks for the key."""
        if scope["type"] != "http":
            await app(scope, receive, send)
            return

        interface_headers = cors if scope["path"].startswith("/v1/") else {}

        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = {**HEADERS, **interface_headers}
                message["headers"] += [(name.encode(), value.encode()) for name, value in headers.items()]
            await send(message)

        if interface_headers and scope["method"] == "OPTIONS":  # a browser asks first, and without the key
            await _preflight(Headers(scope=scope))(scope, receive, sending)
            return
        public = scope["path"] == "/" or scope["path"].startswith("/page/")
        try:
            check_length(Headers(scope=scope))
            gate.check(Headers(scope=scope), key=not public)
            if scope["method"] == "POST":
                gate.check_origin(Headers(scope=scope))
        except RequestError as error:
            kind = RefusedBody if _has_body(Headers(scope=scope)) else Response
            await _error(error, kind)(scope, receive, sending)
            return
        await app(scope, receive, sending)

    return guarded


class RefusedBody(Response):
    """An answer to a request whose body is not read: it goes out first, then what still comes is thrown away.

    A connection that is closed while data arrive is reset, and its sender never sees the answer.
    """

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.headers["connection"] = "close"
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        if "100-continue" not in Headers(scope=scope).get("expect", "").lower():
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(_discard(receive), LINGER)
        await send({"type": "http.response.body", "body": b""})


def _preflight(headers: Headers) -> Response:
    """As TF Serving answers it (model_servers/http_server.cc)."""
    if re.search("https?://", headers.get("origin", "")):
        return Response()
    return _error(RequestError("FAILED_PRECONDITION", "Origin header is missing in CORS preflight"))


def _has_body(headers: Headers) -> bool:
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


async def _discard(receive: Any) -> None:
    while (await receive()).get("more_body"):
        pass


def _error(error: RequestError, kind: type[Response] = Response) -> Response:
    headers = {"retry-after": "1"} if error.code == "UNAVAILABLE" else {}
    if error.code == "UNAUTHENTICATED":
        headers["www-authenticate"] = "Bearer"
    body = dump({"error": error.message.encode("utf-8", "replace").decode()})
    return kind(body, error.http_status, headers, media_type="application/json")
