"""The versions that are served: found in the model base, watched, loaded, swapped, drained and unloaded."""

import asyncio
import contextlib
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from ...export.models_config import FILE, ModelConfig
from ..model_base import read_base
from .servable import Servable
from .status import RequestError

logger = logging.getLogger(__name__)

Stamp = tuple[tuple[str, int, int], ...]  # what a version's files are: name, size, time of change
RETRIES = 5  # of a version that does not load while its files stay the same


@dataclass(eq=False)
class Version:
    """One version, from when it is found until it is gone; `state` is TF Serving's word."""

    model: str
    number: int
    path: Path
    stamp: Stamp
    state: str = "START"
    error: str = ""
    servable: Servable | None = None
    users: int = 0
    attempts: int = 0  # to load it that failed
    unused: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class Model:
    """The versions of one model by number, and its labels."""

    name: str
    versions: dict[int, Version] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)

    @property
    def available(self) -> list[int]:
        return sorted(number for number, version in self.versions.items() if version.state == "AVAILABLE")


@dataclass(frozen=True)
class Found:
    """What a look at the base found of one model."""

    config: ModelConfig
    versions: dict[int, tuple[Path, Stamp]]


class Models:
    """All models of a base. Its methods belong to one event loop; only loading happens in another thread.

    Args:
        base: as in `model_base.find_models`.
        poll: seconds between two looks.
        timeout: seconds after which a run of a network is broken off.
    """

    def __init__(self, base: Path, poll: float, timeout: float) -> None:
        self.base, self.poll, self.timeout = base, poll, timeout
        self.models: dict[str, Model] = {}
        self._loader = ThreadPoolExecutor(1, "load")
        self._draining: set[asyncio.Task[None]] = set()
        self._said = ""

    def find(self, model: str, version: int | None = None, label: str | None = None) -> Version:
        """The version that answers a request: by default the highest that is available.

        Raises:
            RequestError: there is none.
        """
        known = self.models.get(model, Model(model))
        if label is not None:
            if label not in known.labels:
                raise RequestError("INVALID_ARGUMENT", f"Unrecognized servable version label: {label}")
            version = known.labels[label]
        available = known.available
        chosen = max(available, default=None) if version is None else version
        if chosen is None or chosen not in available:
            name = f"Latest({model})" if version is None else f"Specific({model}, {version})"
            there = ", ".join(map(str, available)) if available else ", ".join(sorted(self.models)) or "nothing yet"
            what = "versions" if available else "models"
            raise RequestError("NOT_FOUND", f"Servable not found for request: {name}; {what} served: {there}")
        return known.versions[chosen]

    def states(self, model: str, version: int | None = None) -> list[Version]:
        """The versions of a model, the highest first, or the one asked for.

        Raises:
            RequestError: there are none.
        """
        rows = self.models.get(model, Model(model)).versions
        if not rows:
            raise RequestError("NOT_FOUND", f"Could not find any versions of model {model}")
        if version is not None and version not in rows:
            raise RequestError("NOT_FOUND", f"Could not find version {version} of model {model}")
        return [rows[number] for number in sorted(rows, reverse=True) if version in (None, number)]

    @contextlib.contextmanager
    def using(self, version: Version) -> Iterator[Servable]:
        """Keeps a version in memory while the block runs."""
        assert version.servable is not None
        version.users += 1
        version.unused.clear()
        try:
            yield version.servable
        finally:
            version.users -= 1
            if not version.users:
                version.unused.set()

    async def watch(self) -> None:
        """Looks for versions until it is cancelled."""
        while True:
            await asyncio.sleep(self.poll)
            try:
                await self.refresh()
            except Exception:  # nobody could foresee it, and what is served should not grow stale for it
                logger.exception("looking at %s failed", self.base)

    async def refresh(self) -> None:
        """One look at the base: loads what is new and, when that answers, unloads what is no longer wanted."""
        try:
            found = await asyncio.to_thread(look, self.base)
        except (OSError, ValueError) as error:
            self._say(str(error))  # what is served stays
            if isinstance(error, FileNotFoundError) or "holds no model" not in str(error):
                return
            found = {}
        else:
            unlisted = ", ".join(sorted(name for name, row in found.items() if row.config.count == 0))
            self._say(f"{FILE} has no entry for {unlisted}: not served, here as by TF Serving" if unlisted else "")
        for name in found.keys() | self.models.keys():
            model = self.models.setdefault(name, Model(name))
            await self._reconcile(model, found.get(name, Found(ModelConfig(name), {})))

    async def _reconcile(self, model: Model, found: Found) -> None:
        wanted = found.config.wanted(found.versions)
        for number in sorted(wanted):
            path, stamp = found.versions[number]
            old = model.versions.get(number)
            if old is not None and old.stamp == stamp and (old.state != "END" or old.attempts >= RETRIES):
                continue
            same = old is not None and old.stamp == stamp
            new = Version(model.name, number, path, stamp, attempts=old.attempts if old and same else 0)
            await self._load(model, new, old)
        for label, number in found.config.labels.items():
            if model.labels.get(label) != number:
                logger.info("label %s of %s is version %s", label, model.name, number)
        model.labels = dict(found.config.labels)
        answering = [number for number in wanted if model.versions[number].state == "AVAILABLE"]
        for number, version in list(model.versions.items()):
            # A version stays until one that is wanted answers in its place, unless its files are gone.
            if number not in wanted and version.state == "AVAILABLE" and (answering or number not in found.versions):
                self._unload(version)
            elif number not in wanted and version.state == "END" and number not in found.versions:
                del model.versions[number]

    async def _load(self, model: Model, new: Version, old: Version | None) -> None:
        replaces = old is not None and old.state == "AVAILABLE"
        if not replaces:
            model.versions[new.number] = new
        new.state = "LOADING"
        new.attempts += 1
        try:
            loop = asyncio.get_running_loop()
            new.servable = await loop.run_in_executor(self._loader, Servable, new.path, self.timeout)
        except ValueError as error:
            new.state, new.error = "END", str(error)
            logger.warning("version %s of %s does not load: %s", new.number, new.model, error)
            if replaces and old is not None:
                old.stamp = new.stamp  # not again until its files change again
            return
        new.state, new.attempts = "AVAILABLE", 0
        model.versions[new.number] = new
        logger.info("version %s of %s is available", new.number, new.model)
        if replaces and old is not None:
            self._unload(old)

    def _unload(self, version: Version) -> None:
        version.state = "UNLOADING"
        task = asyncio.create_task(self._drain(version))
        self._draining.add(task)
        task.add_done_callback(self._draining.discard)

    async def _drain(self, version: Version) -> None:
        while version.users:
            await version.unused.wait()
        assert version.servable is not None
        servable, version.servable = version.servable, None
        await asyncio.get_running_loop().run_in_executor(self._loader, servable.close)
        version.state = "END"
        logger.info("version %s of %s is unloaded", version.number, version.model)

    async def close(self) -> None:
        """Unloads everything once it is unused."""
        for model in self.models.values():
            for version in model.versions.values():
                if version.state == "AVAILABLE":
                    self._unload(version)
        await asyncio.gather(*self._draining)
        self._loader.shutdown()

    def _say(self, message: str) -> None:
        if message and message != self._said:
            logger.warning("%s", message)
        self._said = message


def look(base: Path) -> dict[str, Found]:
    """What the base holds, by model.

    Raises:
        FileNotFoundError, ValueError: as `read_base`.
    """
    return {
        name: Found(config, {number: (path, stamp(path)) for number, path in versions.items()})
        for name, (config, versions) in read_base(base).items()
    }


def stamp(version: Path) -> Stamp:
    rows = []
    for folder, _, names in os.walk(version):
        for name in names:
            with contextlib.suppress(OSError):  # gone meanwhile
                facts = os.stat(os.path.join(folder, name))
                rows.append((os.path.join(folder, name), facts.st_size, facts.st_mtime_ns))
    return tuple(sorted(rows))
