"""`keras-resnext serve` in a process of its own, as tests start, ask and stop it."""

import contextlib
import http.client
import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).parents[2]
START = """
import os, sys, json
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
sys.argv[0] = "keras-resnext"
from keras_resnext.cli.serving_commands import _log_to_standard_error
from keras_resnext.serving.server import ServeOptions, serve
_log_to_standard_error()
serve(sys.argv[1], ServeOptions(port=0, **json.loads(sys.argv[2])), lambda line: print(line, flush=True))
"""


class Server:
    """A process that serves `base`; ready when its address is first asked for.

    Args:
        base: as in `keras-resnext serve BASE`.
        options: fields of ServeOptions; the port is a free one.
    """

    def __init__(self, base: Path, **options: object) -> None:
        self.base = base
        self.process = subprocess.Popen(
            [sys.executable, "-c", START, str(base.absolute()), json.dumps(options)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip
        self._lines: list[str] = []
        self._reading = threading.Lock()

    def _read_until(self, mark: str) -> str:
        with self._reading:  # of several threads one would read the line, and the others wait for ever
            while not any(line.startswith(mark) for line in self._lines):
                assert self.process.stdout
                line = self.process.stdout.readline()
                assert line, self.process.communicate()[1]
                self._lines.append(line)
        return next(line for line in self._lines if line.startswith(mark))

    @property
    def port(self) -> int:
        found = re.search(r":(\d+)/", self._read_until("page"))
        assert found
        return int(found[1])

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def grpc_address(self) -> str:
        return self._read_until("gRPC").split()[1]

    def ask(
        self,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        method: str | None = None,
        timeout: float = 30,
    ) -> tuple[int, Any, dict[str, str]]:
        """(status, JSON or text, headers) of one request; a dictionary as body becomes JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        try:
            connection.request(method or ("GET" if data is None else "POST"), path, data, dict(headers or {}))
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        with contextlib.suppress(ValueError):
            return response.status, json.loads(text), dict(response.getheaders())
        return response.status, text, dict(response.getheaders())

    def stop(self) -> int:
        """The exit code after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.communicate(timeout=30)
        finally:
            self.process.kill()
        return self.process.returncode

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def __enter__(self) -> "Server":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
