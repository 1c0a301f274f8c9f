"""Uvicorn's HTTP connection, with the limits that it lacks: on the time for heads and for answers, and on connections.

Uvicorn times nothing before a request's head is complete: a client that sends a byte a minute keeps its connection for
ever. Here a connection that has no complete head after `head_timeout` is closed, and one whose client does not take its
answer; and beyond `connections` the one that has been silent longest.
"""

import asyncio
from typing import Any, ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol

# Bytes that are read of one connection before others have their turn; fewer where they may be a body in chunks of one
# byte, which takes 0.5 s of the event loop for each 256 KB, asyncio's default.
PIECE, LITTLE, DENSE = 1 << 13, 1 << 10, 32
UNTAKEN = 60.0  # seconds for a client to take an answer that is too large for the system's buffers


class LimitedProtocol(H11Protocol):
    """One connection; `limited` makes a class of it for each server."""

    head_timeout = 10.0
    most = 2000
    waiting: ClassVar[dict["LimitedProtocol", None]] = {}  # in the order in which they fell silent

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.max_size = PIECE  # type: ignore[attr-defined]
        self._timer: asyncio.TimerHandle | None = None
        self._await_head()
        if len(self.connections) > self.most:
            oldest = next(iter(self.waiting), self)
            oldest.transport.abort()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if len(data) == PIECE and data.count(b"\r\n") > PIECE // DENSE:
            self.transport.max_size = LITTLE  # type: ignore[attr-defined]
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._head_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._untaken = self.loop.call_later(UNTAKEN, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._untaken.cancel()

    def _watch(self) -> None:
        answering = self.cycle is not None and not self.cycle.response_complete
        if answering:
            self._head_complete()
        elif self._timer is None and not self.transport.is_closing():
            self._await_head()

    def _await_head(self) -> None:
        self.waiting[self] = None
        self._timer = self.loop.call_later(self.head_timeout, self._give_up)

    def _head_complete(self) -> None:
        self.waiting.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        self.transport.abort()


def limited(head_timeout: float, connections: int) -> type[LimitedProtocol]:
    """The protocol with these limits, for one server."""
    values: dict[str, Any] = {"head_timeout": head_timeout, "most": connections, "waiting": {}}
    return type("LimitedProtocol", (LimitedProtocol,), values)
