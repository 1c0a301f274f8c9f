"""What a server can be told."""

from dataclasses import dataclass, field
from typing import Any

# Bodies that may be in memory at once, in requests of the largest size.
BODIES = 8

KEY_VARIABLE = "KERAS_RESNEXT_API_KEY"
_NETWORK, _LIMITS = "Addresses and keys", "Limits"


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
        cors: whether pages of other origins may ask from a browser.
        poll: seconds between two looks at the model base.
        workers: batches that run at once.
        head_timeout: seconds for the head of a request to arrive, and that an idle connection is kept.
        connections: how many may be open; beyond them the one that has been silent longest is closed.
        drain: seconds that running requests have to end when the server stops.
    """

    host: str = field(
        default="127.0.0.1",
        metadata={"panel": _NETWORK, "help": "Address to listen on; 0.0.0.0 for all, and then give a key."},
    )
    port: int = field(
        default=8501,
        metadata={
            "panel": _NETWORK, "min": 0, "max": 65535, "help": "Port of the page and of REST; 0 for a free one.",
        },
    )  # fmt: skip
    grpc_port: int | None = field(
        default=None,
        metadata={
            "panel": _NETWORK, "min": 0, "max": 65535, "help": "Port of gRPC, usually 8500; default none.",
        },
    )  # fmt: skip
    max_batch: int = field(
        default=16, metadata={"panel": _LIMITS, "min": 1, "help": "Images that go through the network together."}
    )
    batch_timeout: float = field(
        default=0.0,
        metadata={
            "panel": _LIMITS, "name": "--batch-timeout-ms", "unit": 1e-3, "min": 0,
            "help": "How long a request waits for others to join it; requests that queue anyway are joined.",
        },
    )  # fmt: skip
    queue: int = field(
        default=256, metadata={"panel": _LIMITS, "min": 1, "help": "Images that may wait; more requests get 503."}
    )
    max_request: int = field(
        default=32 << 20,
        metadata={
            "panel": _LIMITS, "name": "--max-request-mb", "unit": 1 << 20, "min": 0.01,
            "help": "Largest request in MB; larger ones get 413.",
        },
    )  # fmt: skip
    request_timeout: float = field(
        default=30.0, metadata={"panel": _LIMITS, "min": 0.1, "help": "Seconds for a request; then it gets 504."}
    )
    api_key: str | None = field(
        default=None,
        metadata={
            "panel": _NETWORK, "envvar": KEY_VARIABLE,
            "help": "Key that requests must carry; the environment variable keeps it out of process lists.",
        },
    )  # fmt: skip
    cors: bool = field(
        default=False,
        metadata={
            "panel": _NETWORK,
            "help": "Let pages of any origin ask, as TF Serving's --rest_api_enable_cors_support does.",
        },
    )
    poll: float = field(
        default=1.0,
        metadata={
            "panel": _LIMITS, "name": "--poll-seconds", "min": 0.05, "help": "How often to look for new versions.",
        },
    )  # fmt: skip
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
