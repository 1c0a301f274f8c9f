"""What a server can be told."""

from dataclasses import dataclass
from typing import Any

# Bodies that may be in memory at once, in requests of the largest size.
BODIES = 8


@dataclass(frozen=True)
class ServeOptions:
    """Limits of a server; the command line's options of the same names.

    Attributes:
        host, port: where it listens; port 0 takes a free one.
        grpc_port: for gRPC beside REST; None for none.
        max_batch: images that go through a network together.
        batch_timeout: seconds that a request waits for others to join it.
        queue: images that may wait for a free network; beyond them requests get 503.
        max_request: bytes of a request's body.
        request_timeout: seconds for a request, and again for its body to arrive.
        api_key: what requests must carry; None for nothing.
        poll: seconds between two looks at the model base.
        workers: batches that run at once.
        head_timeout: seconds for the head of a request to arrive, and that an idle connection is kept.
        connections: how many may be open; beyond them the one that has been silent longest is closed.
        drain: seconds that running requests have to end when the server stops.
    """

    host: str = "127.0.0.1"
    port: int = 8501
    grpc_port: int | None = None
    max_batch: int = 16
    batch_timeout: float = 0.0
    queue: int = 256
    max_request: int = 32 << 20
    request_timeout: float = 30.0
    api_key: str | None = None
    poll: float = 1.0
    workers: int = 2
    head_timeout: float = 10.0
    connections: int = 2000
    drain: float = 30.0

    def __post_init__(self) -> None:
        rules: dict[str, tuple[bool, str]] = {
            "port": (0 <= self.port < 65536, "be 0 to 65535"),
            "grpc_port": (self.grpc_port is None or 0 <= self.grpc_port < 65536, "be 0 to 65535"),
            "max_batch": (self.max_batch >= 1, "be at least 1"),
            "batch_timeout": (0 <= self.batch_timeout < 60, "be 0 to 60 seconds"),
            "queue": (self.queue >= 1, "be at least 1"),
            "max_request": (self.max_request >= 1024, "be at least 1024 bytes"),
            "request_timeout": (0 < self.request_timeout < float("inf"), "be positive seconds"),
            "poll": (0 < self.poll < float("inf"), "be positive seconds"),
            "workers": (self.workers >= 1, "be at least 1"),
            "api_key": (self.api_key is None or _is_header(self.api_key), "be visible ASCII characters"),
        }
        for name, (holds, rule) in rules.items():
            if not holds:
                shown: Any = "…" if name == "api_key" else getattr(self, name)
                raise ValueError(f"{name}={shown!r} must {rule}")


def _is_header(text: str) -> bool:
    return bool(text) and all(0x21 <= ord(letter) < 0x7F for letter in text)
