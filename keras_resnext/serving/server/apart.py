"""Large bodies are read in processes of their own.

A parser holds Python's lock until it is done, a second for 15 million numbers, and so long nothing else is answered. It
may also take gigabytes, of which a process that ends gives back all. Here no framework is imported: a process costs
30 MB and 0.2 s.
"""

import asyncio
import gc
import os
import pickle
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, TypeVar

from .status import RequestError

Answer = TypeVar("Answer")

# Bytes of a body from which it is read apart: smaller ones hold the lock for 10 ms at most; and of one with examples,
# each of which takes all that their context has.
APART, EXAMPLES_APART = 1 << 18, 1 << 13
MIDDLE = 1 << 22  # bytes from which a body waits for others of its size, and smaller ones do not wait for it
ROOM, GROWTH = 1 << 30, 48  # memory of a reader: bytes, and bytes for each of the largest body
PIPE = 1 << 20
HOME = Path(__file__).parents[3]
START = f"from {__name__} import main; main()"
_SIZE = struct.Struct("<Q")


class Readers:
    """Processes that read bodies, each one at a time; started when they are needed.

    Args:
        seconds: after which one is ended.
        largest: bytes of the largest body.
    """

    def __init__(self, seconds: float, largest: int) -> None:
        self.seconds, self.memory = seconds, ROOM + GROWTH * largest
        self._small, self._large = ThreadPoolExecutor(1, "read"), ThreadPoolExecutor(1, "read-large")
        self._idle: deque[subprocess.Popen[bytes]] = deque()

    async def run(self, function: Callable[..., Answer], *arguments: Any) -> Answer:
        """`function(*arguments)`, a function of a module that needs no framework.

        Raises:
            RequestError: as `function`, or the body took too much memory or time.
        """
        loop = asyncio.get_running_loop()
        bodies = [value for value in arguments if isinstance(value, bytes)]
        large = sum(map(len, bodies)) > MIDDLE
        pool = self._large if large else self._small
        given = [pickle.PickleBuffer(value) if isinstance(value, bytes) else value for value in arguments]  # not copied
        return await loop.run_in_executor(pool, self._ask, (function, *given), large)

    def _ask(self, call: tuple[Any, ...], large: bool) -> Any:
        reader = self._idle.pop() if self._idle else self._start()
        assert reader.stdin
        assert reader.stdout
        timer = threading.Timer(self.seconds, reader.kill)
        timer.start()
        started = time.monotonic()
        try:
            send(reader.stdin, call)
            answer = receive(reader.stdout)
        except (OSError, EOFError):
            end(reader)
            if time.monotonic() - started >= self.seconds:
                raise RequestError("DEADLINE_EXCEEDED", f"the body was not read within {self.seconds:g} s") from None
            raise RequestError("INTERNAL", "reading the body failed: it ended the process that reads") from None
        finally:
            timer.cancel()
        if large:
            end(reader)  # with the memory that it has taken
            reader = self._start()  # while nobody waits
        self._idle.append(reader)
        if isinstance(answer, RequestError):
            raise answer
        return answer

    def _start(self) -> "subprocess.Popen[bytes]":
        # A session of its own: the terminal's Ctrl-C is the server's alone. In HOME, which is where this package is.
        return subprocess.Popen(
            [sys.executable, "-c", START, str(self.memory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=HOME,
            pipesize=PIPE, start_new_session=True,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )  # fmt: skip

    def close(self) -> None:
        for pool in (self._small, self._large):
            pool.shutdown()
        while self._idle:
            end(self._idle.pop())


def end(reader: "subprocess.Popen[bytes]") -> None:
    with suppress(OSError):
        reader.kill()
    reader.communicate()


def send(stream: IO[bytes], value: Any) -> None:
    """Writes a value; what lies in buffers is not copied."""
    buffers: list[pickle.PickleBuffer] = []
    pieces = [pickle.dumps(value, 5, buffer_callback=buffers.append)]
    pieces += [buffer.raw() for buffer in buffers]  # type: ignore[misc]
    stream.write(_SIZE.pack(len(pieces)))
    for piece in pieces:
        stream.write(_SIZE.pack(memoryview(piece).nbytes))
        stream.write(piece)
    stream.flush()


def receive(stream: IO[bytes]) -> Any:
    """The value that `send` wrote.

    Raises:
        EOFError: the other process has ended.
    """
    pieces = [_read(stream, _number(stream)) for _ in range(_number(stream))]
    return pickle.loads(pieces[0], buffers=pieces[1:])


def _number(stream: IO[bytes]) -> int:
    return int(_SIZE.unpack(_read(stream, _SIZE.size))[0])


def _read(stream: IO[bytes], count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise EOFError
    return data


def main() -> None:
    """A reader, until nobody asks any more."""
    gc.disable()  # what parsers make has no cycles, and looking for some takes longer than parsing
    _limit(int(sys.argv[1]))
    if hasattr(os, "nice"):
        os.nice(5)  # networks and answers come first
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever else is printed
    while True:
        try:
            function, *arguments = receive(source)
        except EOFError:
            return
        answer = answer_of(function, arguments)
        del arguments
        send(sink, answer)
        del answer


def answer_of(function: Callable[..., Any], arguments: list[Any]) -> Any:
    """What a function gives, or its error as one of the request's."""
    try:
        return function(*arguments)
    except RequestError as error:
        return error.with_traceback(None)
    except MemoryError:
        return RequestError("RESOURCE_EXHAUSTED", "the body takes too much memory to read; expected a smaller one", 413)
    except Exception as error:
        return RequestError("INTERNAL", f"reading the body failed: {type(error).__name__}")


def _limit(memory: int) -> None:
    with suppress(ImportError, OSError, ValueError):  # Windows; a limit that is lower already
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
