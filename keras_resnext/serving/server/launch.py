"""Starts the server, tells where it is, and stops it as it should stop."""

import asyncio
import contextlib
import gc
import importlib.util
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from ...export.models_config import FILE
from ..model_base import find_models
from .serve_options import ServeOptions

logger = logging.getLogger(__name__)

MISSING = "serving needs Starlette, Uvicorn and orjson ({}): pip install 'keras_resnext[serve]'"
BACKLOG = 2048
LOOPBACK = ("127.0.0.1", "::1", "localhost")
MOST_FILES = 65536


def serve(
    base: str | os.PathLike[str],
    options: ServeOptions,
    tell: Callable[[str], None] = print,
    importing: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
) -> None:
    """Serves the models of `base` until SIGTERM or SIGINT, then lets running requests end.

    Args:
        base: a folder of models, of one model's versions, or one version.
        options: limits.
        tell: called with lines for the user: where the server is.
        importing: a block within which TensorFlow is imported, such as one that hides its greetings.

    Raises:
        ImportError: the extra `serve` is not installed, or for gRPC the extra `grpc`.
        FileNotFoundError, ValueError: no models there, or none that loads.
        OSError: the address cannot be listened on.
    """
    check_installed(options)
    use_system_allocator()
    find_models(base)  # what is wrong should be told before TensorFlow is loaded
    with contextlib.closing(_listen(options)) as listener:
        if options.host not in LOOPBACK and options.api_key is None:
            logger.warning("everybody who reaches %s can ask; --api-key keeps strangers out", options.host)
        with importing():
            import tensorflow  # noqa: F401
        asyncio.run(_serve(Path(base).absolute(), options, listener, tell))


def check_installed(options: ServeOptions) -> None:
    """Raises ImportError, with what to install, where an extra is missing."""
    try:
        import orjson  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ModuleNotFoundError as error:
        raise ImportError(MISSING.format(error)) from error
    if options.grpc_port is not None and importlib.util.find_spec("tensorflow_serving") is None:
        raise ImportError("--grpc-port needs tensorflow-serving-api: pip install 'keras_resnext[grpc]'")


def use_system_allocator() -> None:
    """Memory of large images goes back to the system; to be called before TensorFlow is imported.

    With oneDNN it keeps a pool, in which a decoded image of 179 megapixels leaves 512 MB for ever.
    """
    os.environ.setdefault("TF_ONEDNN_USE_SYSTEM_ALLOCATOR", "1")


async def _serve(base: Path, options: ServeOptions, listener: socket.socket, tell: Callable[[str], None]) -> None:
    import uvicorn

    from .app import create_app
    from .grpc_services import start_grpc
    from .protocol import limited
    from .service import Service

    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # the loader is called deprecated
    service = Service(base, options)
    await service.models.refresh()
    gc.collect()
    gc.freeze()  # TensorFlow's million objects, which each collection would look at for 0.3 s while nobody is answered
    problems = [v for model in service.models.models.values() for v in model.versions.values() if v.error]
    if not any(model.available for model in service.models.models.values()):
        await service.close()
        reason = "; ".join(f"version {v.number} of {v.model}: {v.error}" for v in problems)
        reason = reason or f"{FILE} there has no entry for {', '.join(sorted(service.models.models))}"
        raise ValueError(f"BASE={str(base)!r}: no version loads: {reason}")

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            """Tells where it is once it answers and a signal ends it in order."""
            await super().startup(sockets)
            host, port = listener.getsockname()[:2]
            shown = {"0.0.0.0": "localhost", "::": "localhost"}.get(host, f"[{host}]" if ":" in host else host)
            tell(f"page  http://{shown}:{port}/")
            tell(f"REST  http://{shown}:{port}/v1/models/NAME:predict")
            if grpc_server is not None:
                tell(f"gRPC  {shown}:{grpc_port}")

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            """Uvicorn raises the signal again once it has stopped; a stop that was asked for is no failure here."""
            before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGTERM, signal.SIGINT)}
            try:
                yield
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)

    config = uvicorn.Config(
        create_app(service),
        http=limited(options.head_timeout, options.connections),
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=max(int(options.head_timeout), 1),
        timeout_graceful_shutdown=max(int(options.drain), 1),
    )
    grpc_server: Any = None
    try:
        if options.grpc_port is not None:
            grpc_server, grpc_port = await start_grpc(service, options)
        await Server(config).serve(sockets=[listener])
    finally:
        if grpc_server is not None:
            await grpc_server.stop(options.drain)
        await service.close()


def _listen(options: ServeOptions) -> socket.socket:
    """Bound at once: a port that is taken should not wait for TensorFlow."""
    raise_file_limit()
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            options.host, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, proto)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(f"host={options.host!r}, port={options.port}: cannot listen there: {reason}") from None
    return listener


def raise_file_limit() -> None:
    """As many open files as the system allows: each connection is one, and often only 1024 are given at first."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, MOST_FILES)), hard))
