"""Work for the event loop: in another thread where it is much, and broken off where it takes too long."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from .status import RequestError

Answer = TypeVar("Answer")

INLINE = 1 << 16  # bytes of a request up to which another thread would cost more than it saves


async def aside(size: int, function: Callable[..., Answer], *arguments: Any) -> Answer:
    """`function(*arguments)` for a request of `size` bytes, in another thread where that is large."""
    return function(*arguments) if size <= INLINE else await asyncio.to_thread(function, *arguments)


async def within(seconds: float, work: Awaitable[Answer], late: RequestError) -> Answer:
    """What `work` gives, as `asyncio.wait_for`, but what a refused request held is free at once.

    There the task holds the exception, whose traceback holds the frames with the request, and one of them the task:
    a cycle, which is collected only after many more objects are made.

    Raises:
        RequestError: of `work`, without its traceback, or `late`.
    """

    async def run() -> tuple[Answer | None, RequestError | None]:
        try:
            return await work, None
        except RequestError as error:
            error.__traceback__ = error.__context__ = None
            return None, error

    try:
        answer, refused = await asyncio.wait_for(run(), seconds)
    except asyncio.TimeoutError:
        answer, refused = None, late
    try:
        if refused is not None:
            raise refused
        return answer  # type: ignore[return-value]
    finally:
        del refused, late
