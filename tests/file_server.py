"""A real HTTP server on loopback that serves files as the hosts of checkpoints do, and fails as they do."""

import contextlib
import http.server
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path


class FileServer(http.server.ThreadingHTTPServer):
    """Serves `folder`.

    Attributes:
        cut: how many answers break off, each after `cut_after` bytes.
        pause: seconds before every 64 kB.
        ranges: whether it knows Range.
        lengths: whether it says Content-Length.
        headers: more of them, of every answer.
        redirects: where it sends those who ask for a name.
        trickle: seconds before each byte of a header that never ends, where it is not 0.
        requests: how often each path was asked for.
        offsets: first byte of each answer.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.cut, self.cut_after, self.pause, self.ranges = folder, 0, 100_000, 0.0, True
        self.lengths, self.trickle = True, 0.0
        self.headers: dict[str, str] = {}
        self.redirects: dict[str, str] = {}
        self.requests: Counter[str] = Counter()
        self.offsets: list[int] = []

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: FileServer

    def do_GET(self) -> None:
        server, name = self.server, self.path.lstrip("/")
        server.requests[name] += 1
        if server.trickle:
            self.wfile.write(b"HTTP/1.0 200 OK\r\nX: ")
            with contextlib.suppress(OSError):
                while True:
                    time.sleep(server.trickle)
                    self.wfile.write(b"x")
        if name in server.redirects:
            self.send_response(302)
            self.send_header("Location", server.redirects[name])
            for header in server.headers.items():
                self.send_header(*header)
            self.end_headers()
            return
        path = server.folder / name
        if not path.is_file():
            self.send_error(404)
            return
        content, start = path.read_bytes(), 0
        asked = self.headers.get("Range", "")
        if server.ranges and asked.startswith("bytes="):
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.send_error(416)
                return
        server.offsets.append(start)
        self.send_response(206 if start else 200)
        for header in server.headers.items():
            self.send_header(*header)
        if server.lengths and "Content-Length" not in server.headers:
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = len(content)
        if server.cut > 0:
            server.cut -= 1
            end = min(end, start + server.cut_after)
        with contextlib.suppress(ConnectionError):  # the client may be killed
            for position in range(start, end, 1 << 16):
                time.sleep(server.pause)
                self.wfile.write(content[position : min(end, position + (1 << 16))])
        self.close_connection = True

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[FileServer]:
    server = FileServer(folder)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
