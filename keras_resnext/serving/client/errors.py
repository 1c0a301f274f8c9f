"""What goes wrong between a client and TF Serving, told alike for REST and gRPC; and what is worth another attempt."""

import random
import time
from collections.abc import Callable
from typing import TypeVar

Answer = TypeVar("Answer")

TRANSIENT = {"UNAVAILABLE", "RESOURCE_EXHAUSTED"}  # also what has no connection, HTTP 429, 502 and 503
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0  # seconds


class ServingError(RuntimeError):
    """TF Serving refused a request, failed, or was not there.

    Attributes:
        address: of the server.
        code: gRPC's name of the status, for REST too: "INVALID_ARGUMENT", "NOT_FOUND", "UNAVAILABLE", …; "UNKNOWN" for
            an answer that is none of TF Serving's.
        message: the server's own, where it sent one.
        http_status: 404 and the like; None for gRPC and where no answer came.
    """

    def __init__(self, address: str, code: str, message: str, http_status: int | None = None) -> None:
        super().__init__(address, code, message, http_status)  # all of them, so that pickle can make it again
        self.address, self.code, self.message, self.http_status = address, code, message, http_status

    def __str__(self) -> str:
        status = self.code if self.http_status is None else f"HTTP {self.http_status} ({self.code})"
        return f"{self.address}: {status}: {self.message}"


class ServingTimeoutError(ServingError, TimeoutError):
    """No answer in time; `code` is "DEADLINE_EXCEEDED"."""

    def __init__(
        self, address: str, code: str = "DEADLINE_EXCEEDED", message: str = "", http_status: int | None = None
    ) -> None:
        super().__init__(address, code, message, http_status)


def with_retries(attempt: Callable[[float], Answer], *, address: str, deadline: float, retries: int) -> Answer:
    """`attempt(seconds left)`, again with growing pauses while its error may pass, until `deadline`.

    The pauses double from 0.1 s to 5 s and are shortened at random by up to a half, so that clients which a server
    turned away together do not come back together.

    Args:
        attempt: raises ServingError; only those whose code is transient are worth another attempt.
        address: of the server, for the message.
        deadline: by time.monotonic().
        retries: attempts after the first.

    Raises:
        ServingError: the last attempt's.
        ServingTimeoutError: the next attempt would begin after `deadline`.
    """
    for number in range(retries + 1):
        try:
            return attempt(max(deadline - time.monotonic(), 1e-3))
        except ServingError as error:
            if error.code not in TRANSIENT or number == retries:
                raise
            pause = min(FIRST_PAUSE * 2**number, LONGEST_PAUSE) * random.uniform(0.5, 1)
            if time.monotonic() + pause >= deadline:
                text = f"gave up after {number + 1} attempts; the last one: {error.code}: {error.message}"
                raise ServingTimeoutError(address, message=text, http_status=error.http_status) from error
            time.sleep(pause)
    raise AssertionError("unreachable")
