"""Mutates Keras's files and loads them: each case must end in a model or in CheckpointError, soon and in little memory.

    python tools/fuzz_keras_files.py --cases 15000

Each case goes through what `keras-resnext info` and `convert` call: changed bytes and addresses in HDF5, HDF5 files of
kinds that Keras does not write, the zip archive around them, and edits of config.json. Exits with 1 and keeps the file
of each case that ended otherwise. Memory is measured on Linux alone.
"""

from __future__ import annotations

import argparse
import copy
import gc
import io
import json
import os
import random
import signal
import struct
import sys
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from keras_resnext import ResNeXt
from keras_resnext.loading import load_model
from keras_resnext.pytorch.checkpoint import CheckpointError
from keras_resnext.weights.info import describe_file

EDGES = [(1 << bits) + step for bits in (0, 7, 8, 15, 16, 24, 31, 32, 62, 63) for step in (-1, 0, 1)]
NAMES = [
    "Lambda",
    "StringLookup",
    "TFSMLayer",
    "Dense",
    "Normalization",
    "function",
    "__numpy__",
    "system",
    "Embedding",
]
MODULES = ["os", "keras.layers", "keras.utils", "keras.src.ops.numpy", "keras.config", "builtins", None, 3, "keras"]
SECONDS, MEMORY = 1.0, 100 << 20  # of a refusal; twice the file comes on top
BUILDING = 20.0  # seconds of a model that is built


def network() -> keras.Model:
    return ResNeXt(
        blocks=(1, 1, 1, 1), groups=2, base_channels=4, width_per_group=2, classes=2, input_shape=(32, 32, 3)
    )


def small() -> keras.Model:
    image = keras.Input((4, 4, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(2, 3, activation="relu")(image * 2))
    return keras.Model(image, keras.layers.Dense(2, "softmax")(x))


def parts_of(model: keras.Model) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "m.keras")
        model.save(path)
        with zipfile.ZipFile(path) as archive:
            return {name: archive.read(name) for name in archive.namelist()}


def archived(parts: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def made(fill: Callable[[h5py.File], Any], **options: Any) -> bytes:
    """A small HDF5 file as Keras writes it, with what `fill` adds; `options` of `h5py.File`."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", **options) as file:
        group = file.create_group("layers/conv/vars")
        group.attrs["name"] = "conv1"
        group["0"] = np.ones((3, 3, 3, 8), "float32")
        fill(file)
    return buffer.getvalue()


def strange_hdf5() -> Iterator[bytes]:
    """HDF5 files of kinds that Keras does not write, each small."""

    def linked(file: h5py.File) -> None:
        for index in range(2000):
            file[f"layers/conv/vars/{index + 1}"] = file["layers/conv/vars/0"]

    def cyclic(file: h5py.File) -> None:
        file["layers/conv/again"] = file["layers"]

    yield made(linked)
    yield made(cyclic)
    yield made(lambda file: file.create_group("/".join(["g"] * 2000)))
    yield made(lambda file: file.create_dataset("t", (1000,), h5py.string_dtype()))
    yield made(lambda file: file.attrs.create("name", ["text"] * 100, dtype=h5py.string_dtype()))
    yield made(lambda file: file.create_dataset("c", (1 << 20, 1 << 20), "f4", chunks=(64, 64), compression="gzip"))
    yield made(lambda file: file.create_dataset("e", (3,), "f4", external=[("/etc/passwd", 0, 12)]))
    yield made(lambda file: file.__setitem__("s", h5py.SoftLink("/layers")))
    yield made(lambda file: file.__setitem__("s", h5py.ExternalLink("/etc/passwd", "/")))
    yield made(lambda file: None, libver="latest")
    yield made(lambda file: None, userblock_size=512)
    yield made(lambda file: [file.create_group(f"wide/{index}") for index in range(3000)])
    yield made(lambda file: [file.attrs.create(f"a{index}", "x" * 2000) for index in range(20)])


def mutate_bytes(rng: random.Random, data: bytes) -> bytes:
    """One to four changes, half of them of aligned numbers of eight bytes, to others of the file: links and cycles."""
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4])):
        size = len(changed)
        kind, at = rng.randrange(7), rng.randrange(size)
        if kind < 3:
            at = rng.choice([at, rng.randrange(min(size, 4096))]) // 8 * 8
            other = rng.randrange(size) // 8 * 8
            number = struct.unpack_from("<Q", data, other)[0] if other + 8 <= len(data) else 0
            value = rng.choice([number, other, rng.choice(EDGES)]) & ((1 << 64) - 1)
            changed[at : at + 8] = value.to_bytes(8, "little")
        elif kind == 3:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 4:
            changed[at] = rng.randrange(256)
        elif kind == 5:
            marks = [m for m in (data.find(mark, at) for mark in (b"TREE", b"SNOD", b"HEAP", b"GCOL")) if m >= 0]
            place = (rng.choice(marks) if marks else 0) + rng.randrange(48)
            changed[place : place + 2] = rng.choice(EDGES[:15]).to_bytes(4, "little")[:2]
        elif rng.random() < 0.2:
            del changed[at:]
            if not changed:
                return b"\0"
    return bytes(changed)


def mutate_config(rng: random.Random, config: Any) -> Any:
    """One to three values of a config replaced: by others of it, numbers at the edges, or names of what runs code."""
    changed = copy.deepcopy(config)
    for _ in range(rng.choice([1, 1, 2, 3])):
        places: list[tuple[Any, Any]] = []
        waiting = [changed]
        while waiting:
            value = waiting.pop()
            keys = list(value) if isinstance(value, dict) else range(len(value))
            places += [(value, key) for key in keys]
            waiting += [value[key] for key in keys if isinstance(value[key], dict | list)]
        holder, key = rng.choice(places)
        source, name = rng.choice(places)
        edge = rng.choice(EDGES)
        attack = {
            "module": rng.choice(MODULES),
            "class_name": rng.choice(NAMES),
            "config": {"units": edge, "name": "x"},
        }
        choices = [source[name], edge, -edge, attack, "os.system", None, [edge] * 4, {}, "x" * 10_000, 1e308, True]
        number = isinstance(holder[key], int)
        holder[key] = copy.deepcopy(rng.choice(choices[1:3] if number and rng.random() < 0.7 else choices))
    return changed


class Cases:
    """Files, each by its number and the seed alone."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.seed = seed
        parts, whole = parts_of(small()), parts_of(network())
        self.parts, self.config = parts, json.loads(parts["config.json"])
        self.network = whole["model.weights.h5"]
        self.strange = list(strange_hdf5())

    def make(self, number: int) -> tuple[str, bytes]:
        """(suffix, content)."""
        rng, kind = random.Random(f"{self.seed} {number}"), number % 6
        weights = self.parts["model.weights.h5"]
        if kind == 0:
            return ".weights.h5", mutate_bytes(rng, self.network)
        if kind == 1:
            strange = rng.choice(self.strange)
            return ".weights.h5", mutate_bytes(rng, strange) if rng.random() < 0.8 else strange
        if kind == 2:
            return ".keras", archived(self.parts | {"model.weights.h5": mutate_bytes(rng, weights)})
        if kind == 3:
            method = rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
            return ".keras", mutate_bytes(rng, archived(self.parts, method))
        config = json.dumps(mutate_config(rng, self.config)).encode()
        return ".keras", archived(self.parts | {"config.json": config})


def peak() -> int:
    """Bytes of the most memory since `forget_peak`."""
    status = Path("/proc/self/status")
    found = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")] if status.exists() else []
    return int(found[0].split()[1]) << 10 if found else 0


def forget_peak() -> int:
    """The memory of now, which `peak` counts from."""
    if os.access("/proc/self/clear_refs", os.W_OK):
        Path("/proc/self/clear_refs").write_text("5")
    return peak()


def ended(read: Callable[[Path], Any], path: Path) -> str:
    try:
        read(path)
        return "read"
    except CheckpointError:
        return "CheckpointError"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return type(error).__name__


def run(cases: int, seed: int, folder: Path, keep: Path | None, report: Callable[[str], None]) -> int:
    """Runs the cases; the number of those that ended in another exception, too late or in too much memory."""
    made, ends, worst, bad = Cases(seed, folder), Counter[str](), {"refused": (0.0, 0), "built": (0.0, 0)}, 0

    def late(*_: Any) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, late)
    for path in (folder / "warm.keras", folder / "warm.weights.h5"):  # what the first one loads is not counted
        path.write_bytes(archived(made.parts) if path.suffix == ".keras" else made.network)
        assert ended(load_model, path) == "read", path
    for number in range(cases):
        suffix, content = made.make(number)
        path = folder / f"case{suffix}"
        path.unlink(missing_ok=True)  # never shorten a file that an array still maps
        path.write_bytes(content)
        reads = [describe_file, load_model] if suffix == ".keras" or number % 120 == 0 else [describe_file]
        for read in reads:
            before, start = forget_peak(), time.perf_counter()
            signal.alarm(60)
            end = ended(read, path)
            signal.alarm(0)
            took, memory = time.perf_counter() - start, peak() - before
            kind = "built" if read is load_model else "refused"
            worst[kind] = max(worst[kind][0], took), max(worst[kind][1], memory)
            ends[f"{read.__name__}: {end}"] += 1
            limit = SECONDS if kind == "refused" else BUILDING
            if end not in ("read", "CheckpointError") or took > limit or memory > MEMORY + 2 * len(content):
                bad += 1
                report(f"case {number}: {read.__name__} {end}, {took:.2f} s, {memory >> 20} MB")
                if keep is not None:
                    keep.mkdir(parents=True, exist_ok=True)
                    (keep / f"case-{seed}-{number}{suffix}").write_bytes(content)
        if number % 200 == 199:
            keras.backend.clear_session()
            gc.collect()
        if number % 1000 == 999:
            report(f"{number + 1} cases, {dict(ends)}")
    figures = ", ".join(
        f"{kind} {took * 1000:.0f} ms and {memory / 1e6:.0f} MB" for kind, (took, memory) in worst.items()
    )
    report(f"{cases} cases, {dict(ends)}, worst: {figures}")
    return bad


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=15_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir(), "fuzz_keras_files"), metavar="FOLDER")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # Keras warns of layers without weights
    with tempfile.TemporaryDirectory() as folder:
        return int(
            run(options.cases, options.seed, Path(folder), options.keep, lambda line: print(line, flush=True)) > 0
        )


if __name__ == "__main__":
    sys.exit(main())
