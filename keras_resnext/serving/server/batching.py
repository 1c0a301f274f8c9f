"""Dynamic batching: requests that wait together go through the network together."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...export.image_formats import MAX_PIXELS
from .models import Models, Version
from .monitoring import Metrics
from .servable import Servable, release_memory
from .signature import Signature
from .status import RequestError
from .tensors import Array

LARGE = 1 << 24  # pixels of encoded images in a request, after which memory is given back

Arrays = dict[str, Array]
Key = tuple[Any, ...]


@dataclass(eq=False)
class Job:
    """A request that waits for its turn; cancelled where its future is."""

    arrays: Arrays
    rows: int
    pixels: int
    since: float
    answer: asyncio.Future[Arrays]


class Batcher:
    """Runs requests on a few threads; what arrives while they are busy, or within `timeout`, is joined.

    Requests are joined where version, signature and all sizes but the first agree. One that fails does not take others
    down: what was joined with it is run again in halves.

    Args:
        models: whose versions it keeps in memory while they run.
        metrics: told of batches and of how long requests waited.
        workers: batches at once.
        max_batch: rows of a batch; a larger request runs in pieces.
        timeout: seconds that the first request of a batch waits for others.
        queue: rows that may wait.
    """

    def __init__(
        self, models: Models, metrics: Metrics, *, workers: int, max_batch: int, timeout: float, queue: int
    ) -> None:
        self.models, self.metrics = models, metrics
        self.max_batch, self.timeout, self.queue = max_batch, timeout, queue
        self.waiting = 0
        self._lanes: dict[Key, deque[Job]] = {}
        self._arrived = asyncio.Event()
        self._slots = asyncio.Semaphore(workers)
        self._pool = ThreadPoolExecutor(workers, "run")
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, version: Version, signature: Signature, arrays: Arrays, pixels: int = 0) -> Arrays:
        """The outputs of a request whose inputs fit the signature, and whose images have so many pixels.

        Raises:
            RequestError: too many wait already, or the network refused it.
        """
        loop = asyncio.get_running_loop()
        rows = _rows(arrays) if signature.batched else 1
        if self.waiting and self.waiting + rows > self.queue:
            raise RequestError(
                "UNAVAILABLE", f"the queue is full: {self.waiting} rows wait, at most {self.queue} may; try again later"
            )
        job = Job(arrays, rows, pixels, loop.time(), loop.create_future())
        # What cannot be joined has a lane of its own.
        shapes = tuple(array.shape[1:] for array in arrays.values()) if signature.batched else (id(job),)
        key = (id(version), signature.name, shapes)
        self.waiting += rows
        lane = self._lanes.setdefault(key, deque())
        lane.append(job)
        self._arrived.set()
        if len(lane) == 1:
            held = contextlib.ExitStack()
            servable = held.enter_context(self.models.using(version))  # now: the caller may give up at once
            self._start(self._serve_lane(key, lane, version, servable, signature, held))
        return await job.answer

    async def _serve_lane(
        self,
        key: Key,
        lane: deque[Job],
        version: Version,
        servable: Servable,
        signature: Signature,
        held: contextlib.ExitStack,
    ) -> None:
        """Takes batches from a lane until it is empty."""
        with held:
            while lane:
                await self._fill(lane)
                await self._slots.acquire()
                batch = self._take(lane)
                if batch:
                    running = contextlib.ExitStack()
                    running.enter_context(self.models.using(version))
                    self._start(self._execute(version, servable, signature, batch, running))
                else:  # all have given up
                    self._slots.release()
            del self._lanes[key]

    async def _fill(self, lane: deque[Job]) -> None:
        loop = asyncio.get_running_loop()
        deadline = lane[0].since + self.timeout
        while sum(job.rows for job in lane) < self.max_batch and (left := deadline - loop.time()) > 0:
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), left)
            except asyncio.TimeoutError:
                return

    def _take(self, lane: deque[Job]) -> list[Job]:
        batch: list[Job] = []
        rows = pixels = 0
        while lane and (not batch or (rows + lane[0].rows <= self.max_batch and pixels + lane[0].pixels <= MAX_PIXELS)):
            job = lane.popleft()
            self.waiting -= job.rows
            if not job.answer.done():
                batch.append(job)
                rows += job.rows
                pixels += job.pixels
        return batch

    async def _execute(
        self,
        version: Version,
        servable: Servable,
        signature: Signature,
        batch: list[Job],
        held: contextlib.ExitStack,
    ) -> None:
        loop = asyncio.get_running_loop()
        try:
            with held:
                started = loop.time()
                rows = sum(job.rows for job in batch)
                self.metrics.batch(version.model, rows, [started - job.since for job in batch])
                results = await loop.run_in_executor(self._pool, run_batch, servable, signature, batch, self.max_batch)
                if sum(job.pixels for job in batch) > LARGE:
                    await loop.run_in_executor(self._pool, release_memory)
                self.metrics.runtime(version.model, loop.time() - started)
            for job, result in zip(batch, results, strict=True):
                if job.answer.done():
                    continue
                if isinstance(result, Exception):
                    job.answer.set_exception(result)
                else:
                    job.answer.set_result(result)
        except Exception as error:  # of this module's own making: the callers must not wait for ever
            for job in batch:
                if not job.answer.done():
                    job.answer.set_exception(error)
        finally:
            self._slots.release()

    def _start(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Waits for what runs."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        self._pool.shutdown()


def run_batch(
    servable: Servable, signature: Signature, batch: Sequence[Job], max_batch: int
) -> list[Arrays | RequestError]:
    """The outputs or the error of each job, in a thread."""
    if len(batch) == 1:
        try:
            return [_run_pieces(servable, signature, batch[0], max_batch)]
        except RequestError as error:
            return [error]
    joined = {name: np.concatenate([job.arrays[name] for job in batch]) for name in signature.inputs}
    try:
        outputs = servable.run(signature, joined)
    except RequestError as error:
        if error.code in ("DEADLINE_EXCEEDED", "CANCELLED"):  # which would take as long again, for each half
            return [error] * len(batch)
        half = len(batch) // 2
        return [
            *run_batch(servable, signature, batch[:half], max_batch),
            *run_batch(servable, signature, batch[half:], max_batch),
        ]
    rows = sum(job.rows for job in batch)
    if any(len(array) != rows for array in outputs.values()):  # a signature that promised rows and gives others
        return [result for job in batch for result in run_batch(servable, signature, [job], max_batch)]
    results: list[Arrays | RequestError] = []
    start = 0
    for job in batch:
        results.append({name: array[start : start + job.rows] for name, array in outputs.items()})
        start += job.rows
    return results


def _run_pieces(servable: Servable, signature: Signature, job: Job, max_batch: int) -> Arrays:
    if job.rows <= max_batch:
        return servable.run(signature, job.arrays)
    pieces = []
    for start in range(0, job.rows, max_batch):
        if job.answer.cancelled():  # whoever asked has given up
            raise RequestError("CANCELLED", "the request was given up")
        pieces.append(servable.run(signature, {k: v[start : start + max_batch] for k, v in job.arrays.items()}))
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in signature.outputs}


def _rows(arrays: Mapping[str, Array]) -> int:
    sizes = {len(array) for array in arrays.values()}
    if len(sizes) != 1:
        raise RequestError("INVALID_ARGUMENT", f"inputs of different batch sizes: {sorted(sizes)}; expected one size")
    return max(sizes.pop(), 1)  # an empty batch is a request too, which the network refuses
