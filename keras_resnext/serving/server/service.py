"""What REST and gRPC have in common: a request for a model's version, timed, counted and run."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from .apart import APART, Readers
from .batching import Arrays, Batcher
from .explainer import Explainer
from .image_checks import check_images
from .models import Models, Version
from .monitoring import Metrics
from .running import aside, within
from .servable import Servable, example_schema, release_memory
from .serve_options import ServeOptions
from .signature import CLASSIFY, Signature
from .status import RequestError, invalid
from .tensors import Array, size_of

Answer = TypeVar("Answer")

LARGE = 1 << 22  # bytes of a request, after which memory is given back
SOON = 0.5  # seconds


class Service:
    """The models of a base and all that answers for them. Made within the event loop that it belongs to."""

    def __init__(self, base: Path, options: ServeOptions) -> None:
        self.options = options
        self.metrics = Metrics()
        self.models = Models(base, options.poll, options.request_timeout)
        self.batcher = Batcher(
            self.models,
            self.metrics,
            workers=options.workers,
            max_batch=options.max_batch,
            timeout=options.batch_timeout,
            queue=options.queue,
        )
        self.explainer = Explainer()
        self._giving_back = False
        self.readers = Readers(options.request_timeout, options.max_request)

    async def counted(self, model: str, api: str, entrypoint: str, work: Callable[[], Awaitable[Answer]]) -> Answer:
        """`work()` within the time for a request; how it ended goes into the metrics.

        Raises:
            RequestError: as `work`, or that it took too long.
        """
        started, status = time.perf_counter(), "OK"
        try:
            return await self.in_time(work())
        except RequestError as error:
            status = error.code
            raise
        except BaseException as error:
            status = "CANCELLED" if isinstance(error, asyncio.CancelledError) else "INTERNAL"
            raise
        finally:
            # Names that anybody can make up would fill the memory with series.
            known = model if model in self.models.models else ""
            self.metrics.request(known, api, entrypoint, status, time.perf_counter() - started)

    async def in_time(self, work: Awaitable[Answer]) -> Answer:
        """What `work` gives within the time for a request.

        Raises:
            RequestError: as `work`, or that it took too long.
        """
        seconds = self.options.request_timeout
        return await within(seconds, work, RequestError("DEADLINE_EXCEEDED", f"no answer within {seconds:g} s"))

    async def read(self, function: Callable[..., Answer], body: bytes, *arguments: Any, most: int = APART) -> Answer:
        """`function(body, *arguments)`, in another process where the body is larger than `most` bytes.

        Raises:
            RequestError: as `function`, or it took too much time or memory.
        """
        if len(body) > most:
            return await self.readers.run(function, body, *arguments)
        return await aside(len(body), function, body, *arguments)

    async def predict(self, version: Version, signature: Signature, arrays: Arrays) -> Arrays:
        """Runs inputs that fit the signature.

        Raises:
            RequestError: an image that no network should see, too many requests, or the network refused it.
        """
        size, example = size_of(arrays.values()), example_schema()
        if size > APART and signature.method_name == CLASSIFY:
            pixels = await self.readers.run(check_images, signature, arrays, example)
        else:
            pixels = await aside(size, check_images, signature, arrays, example)
        return await self.batcher.run(version, signature, arrays, pixels)

    async def classify(
        self, version: Version, servable: Servable, name: str, examples: list[bytes]
    ) -> tuple[Array, Array]:
        """(classes, scores), each (examples, k), of serialized tf.Examples.

        Raises:
            RequestError: the signature is none for classification, or its outputs are not those of one.
        """
        signature = servable.signature(name)
        if signature.method_name != CLASSIFY:
            raise invalid(
                f"Expected classification signature method_name to be {CLASSIFY}. Was: {signature.method_name}; "
                f"signatures for it: {', '.join(self.names_of(servable, CLASSIFY)) or 'none'}"
            )
        if set(signature.inputs) != {"inputs"} or not set(signature.outputs) <= {"classes", "scores"}:
            raise invalid(f"Expected classification signature {name!r} to take inputs and give classes and scores")
        if not examples:
            raise invalid("Input is empty.")
        inputs = np.empty(len(examples), object)
        inputs[:] = examples
        outputs = await self.predict(version, signature, {"inputs": inputs})
        some = next(iter(outputs.values()))
        if any(output.ndim != 2 or output.shape != some.shape for output in outputs.values()):
            raise invalid("Expected Tensor shape of classes and scores: [batch_size num_classes] each")
        classes = outputs.get("classes", np.full(some.shape, b"", object))
        return classes, outputs.get("scores", np.zeros(some.shape, np.float32))

    @staticmethod
    def names_of(servable: Servable, method_name: str) -> list[str]:
        """Signatures for one kind of call."""
        return sorted(name for name, row in servable.signatures.items() if row.method_name == method_name)

    def give_back_memory(self, size: int) -> None:
        """After a request of `size` bytes: soon, when it is gone, and once for all that come meanwhile."""
        loop = asyncio.get_running_loop()

        def give_back() -> None:
            self._giving_back = False
            loop.run_in_executor(None, release_memory)

        if size > LARGE and not self._giving_back:
            self._giving_back = True
            loop.call_later(SOON, give_back)

    def gauges(self) -> dict[str, float]:
        """What is so at this moment, for the metrics."""
        available = sum(len(model.available) for model in self.models.models.values())
        return {
            ":keras_resnext:serving:queue_rows": float(self.batcher.waiting),
            ":keras_resnext:serving:versions_available": float(available),
        }

    async def close(self) -> None:
        """Waits for what runs and frees the models."""
        await self.batcher.close()
        self.explainer.close()
        self.readers.close()
        await self.models.close()
