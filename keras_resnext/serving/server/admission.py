"""What may come in: how large, how slow, from whom."""

import asyncio
import hmac
import ipaddress
import zlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from .running import within
from .serve_options import BODIES, ServeOptions
from .status import RequestError, invalid

Receive = Callable[[], Awaitable[Any]]

GZIP = 16 + zlib.MAX_WBITS


class Bodies:
    """Reads the bodies of requests, each within a size and a time, all together within a memory."""

    def __init__(self, options: ServeOptions) -> None:
        self.largest, self.seconds = options.max_request, options.request_timeout
        self.total = BODIES * options.max_request
        self.held = 0

    @contextmanager
    def holding(self) -> Iterator["Body"]:
        """A body whose bytes count while the block runs."""
        body = Body(self)
        try:
            yield body
        finally:
            self.held -= body.size


class Body:
    """One request's."""

    def __init__(self, bodies: Bodies) -> None:
        self.bodies, self.size = bodies, 0

    async def read(self, receive: Receive, headers: Mapping[str, str]) -> bytes:
        """All of it, unpacked if it came packed.

        Raises:
            RequestError: too large (HTTP 413), too slow (408), broken off, or more than there is room for (503).
        """
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > self.bodies.largest:
            raise self._too_large()
        text = f"the body did not arrive within {self.bodies.seconds:g} s"
        data = await within(self.bodies.seconds, self._collect(receive), RequestError("DEADLINE_EXCEEDED", text, 408))
        encoding = headers.get("content-encoding", "identity").strip().lower()
        if encoding in ("", "identity"):
            return data
        if encoding not in ("gzip", "x-gzip"):
            raise RequestError("INVALID_ARGUMENT", f"Content-Encoding {encoding[:40]!r} must be gzip or none", 415)
        return await asyncio.to_thread(self._unpack, data)  # a few bytes can be many

    async def _collect(self, receive: Receive) -> bytes:
        pieces = []
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise RequestError("CANCELLED", "the connection broke off within the body")
            piece = message.get("body", b"")
            self._take(len(piece))
            pieces.append(piece)
            if not message.get("more_body"):
                return b"".join(pieces)

    def _take(self, count: int) -> None:
        self.size += count
        self.bodies.held += count
        if self.size > self.bodies.largest:
            raise self._too_large()
        large = self.size > self.bodies.largest // BODIES
        if self.bodies.held > self.bodies.total - (self.bodies.largest if large else 0):  # small ones still get in
            text = f"requests of {self.bodies.total >> 20} MB in all are being read already; try again later"
            raise RequestError("UNAVAILABLE", text)

    def _unpack(self, data: bytes) -> bytes:
        unpacker = zlib.decompressobj(GZIP)
        try:
            plain = unpacker.decompress(data, self.bodies.largest + 1)
        except zlib.error as error:
            raise invalid(f"the body is no gzip: {error}") from None
        if len(plain) > self.bodies.largest:
            raise self._too_large()
        if not unpacker.eof:
            raise invalid("the body is gzip that breaks off")
        self._take(len(plain) - len(data) if len(plain) > len(data) else 0)
        return plain

    def _too_large(self) -> RequestError:
        text = f"the body is larger than {self.bodies.largest} bytes, which --max-request-mb allows"
        return RequestError("RESOURCE_EXHAUSTED", text, 413)


class Gate:
    """Who may ask: with an API key who has it; without one, on loopback, only pages and programs of this machine.

    A page from elsewhere whose name is made to lead to 127.0.0.1 (DNS rebinding) sends its own name as Host. A page
    that posts here without reading the answer sends its Origin.
    """

    def __init__(self, options: ServeOptions) -> None:
        self._cors = options.cors
        self._key = None if options.api_key is None else options.api_key.encode()
        self._loopback = _is_loopback(options.host)

    def check(self, headers: Mapping[str, str], key: bool = True) -> None:
        """Raises RequestError (401 or 403) for anybody else; without `key` for those alone who need none."""
        if self._key is not None:
            if not key:
                return
            given = headers.get("x-api-key", "")
            scheme, _, token = headers.get("authorization", "").partition(" ")
            if scheme.lower() == "bearer":
                given = token.strip()
            if not hmac.compare_digest(given.encode("utf-8", "replace"), self._key):
                what = "another key" if given else "no key"
                raise RequestError(
                    "UNAUTHENTICATED",
                    f"this server wants its API key, as 'Authorization: Bearer KEY' or 'x-api-key: KEY'; got {what}",
                )
        elif self._loopback and not _is_local(headers.get("host", "localhost")):
            raise RequestError(
                "PERMISSION_DENIED",
                f"Host {headers['host'][:100]!r} is not this machine; expected localhost. To serve under another name, "
                "give --api-key or --host",
            )

    def check_origin(self, headers: Mapping[str, str]) -> None:
        """Raises RequestError (403) for a post that a page of another origin sends, where nothing else keeps it out."""
        origin = headers.get("origin")
        own = headers.get("sec-fetch-site") == "same-origin"  # whatever a proxy made of the host
        if origin is None or own or self._cors or self._key is not None:
            return
        if origin.lower().partition("://")[2] != headers.get("host", "").lower():
            raise RequestError(
                "PERMISSION_DENIED", f"pages of {origin[:100]!r} may not ask this server; --cors lets all pages ask"
            )


def check_length(headers: Mapping[str, str]) -> None:
    """Raises RequestError where a body has two lengths: proxy and server could take different ones (smuggling)."""
    if "content-length" in headers and "transfer-encoding" in headers:
        raise invalid("Content-Length and Transfer-Encoding in one request; expected one of them")


def _is_loopback(host: str) -> bool:
    return host == "localhost" or (_address(host) is not None and bool(_address(host).is_loopback))  # type: ignore[union-attr]


def _is_local(host: str) -> bool:
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
    name = name.strip("[]").lower().rstrip(".")
    return name == "localhost" or name.endswith(".localhost") or _address(name) is not None


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
