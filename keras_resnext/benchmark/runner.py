"""Runs rows of comparisons."""

import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..network.architectures import find_architecture
from ..network.costs import count_costs
from .hardware_limits import BYTES, SIDE
from .rows import Row
from .turns import ContenderError, end, start, take_turns
from .work import CONTENDERS, Work, needs

PACKAGES = ("keras_resnext", "keras", "tensorflow", "jax", "torch", "torchvision", "onnxruntime", "openvino",
            "ai-edge-litert", "numpy", "pillow")  # fmt: skip
_CHILD = Path(__file__).with_name("child.py")
LIMIT, LIMIT_ROUNDS = "matmul", 15


@dataclass(frozen=True)
class Measurement:
    """What a row gave.

    Attributes:
        row: its name.
        work: what was asked.
        seconds: of each contender, one number a round.
        memory: the most bytes that each held, where it says so beyond its libraries.
        ours, peer: the fastest contenders of each side, or those of the least memory; "" for none.
        figure: ratio or seconds, as the row says; None if it could not be measured.
        rate: FLOP/s that ours reached; None where that means nothing.
        limit: the same as a share of the machine's arithmetic at best.
        absent: contenders that did not run, with the reason.
        missing: why there is no figure, else "".
    """

    row: str
    work: Mapping[str, Any]
    seconds: Mapping[str, list[float]]
    memory: Mapping[str, int]
    ours: str = ""
    peer: str = ""
    figure: float | None = None
    rate: float | None = None
    limit: float | None = None
    absent: Mapping[str, str] = field(default_factory=dict)
    missing: str = ""


def run_benchmark(
    rows: Mapping[str, Row],
    *,
    rounds: int = 9,
    threads: int | None = None,
    changes: Mapping[str, Any] | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> tuple[dict[str, Any], list[Measurement]]:
    """Measures each row, contenders in turn.

    Args:
        rows: from `find_rows`.
        rounds: how often each contender is timed.
        threads: of each contender on a CPU; default the number of processors.
        changes: fields of `Work` for all rows, such as a smaller `size` or another `architecture`.
        tell: is told what is being done.

    Returns:
        (the machine: names, versions and measured limits; one measurement a row).
    """
    base = Work(threads=threads or os.cpu_count() or 1)
    with tempfile.TemporaryDirectory(prefix="keras_resnext_") as folder:
        base = replace(base, folder=Path(folder))
        machine = describe_machine(base.threads)
        tell("the machine's limits")
        fastest = {precision: _least_seconds(LIMIT, replace(base, precision=precision))
                   for precision in _precisions(rows, changes)}  # fmt: skip
        copied = _least_seconds("copy", base)
        found = []
        for name, row in rows.items():
            tell(f"{name}: {row.title}")
            work = replace(base, **{**row.work, **(changes or {})})
            measured = measure(name, row, work, min(rounds, row.rounds or rounds))
            found.append(measured)
            known = [*measured.seconds.get(LIMIT, ()), *filter(None, [fastest.get(work.precision)])]
            fastest[work.precision] = min(known, default=None)
        peaks = {kind: 2 * SIDE**3 / seconds if seconds else None for kind, seconds in fastest.items()}
        machine["peak_flops"] = peaks
        machine["peak_bytes_per_second"] = None if copied is None else 2 * BYTES / copied
    return machine, [replace(m, limit=_share(m.rate, peaks.get(m.work.get("precision", "")))) for m in found]


def _share(rate: float | None, peak: float | None) -> float | None:
    return rate / peak if rate and peak else None


def _precisions(rows: Mapping[str, Row], changes: Mapping[str, Any] | None) -> list[str]:
    given = (changes or {}).get("precision")
    wanted = [row.work.get("precision", "float32") for row in rows.values() if not (row.gpu and not has_gpu())]
    return [given] if given else list(dict.fromkeys(wanted))


def _least_seconds(name: str, work: Work) -> float | None:
    try:
        seconds, _ = take_turns({name: _start(name, work)}, LIMIT_ROUNDS)
    except ContenderError:
        return None
    return min(seconds[name])  # a limit is what was reached at best


def measure(name: str, row: Row, work: Work, rounds: int) -> Measurement:
    """One row, in files and processes of its own. Where it counts operations, the machine's limit takes turns too."""
    described = {key: str(value) for key, value in asdict(work).items() if key != "folder"}
    if row.gpu and not has_gpu() and work.batch > 8:
        return Measurement(name, described, {}, {}, missing="no GPU here")
    processes, absent = {}, {}
    for each in (*row.ours, *row.peers):
        try:
            processes[each] = _ready(each, work)
        except ContenderError as error:
            absent[each] = str(error)[:200]
    measured = Measurement(name, described, {}, {}, absent=absent)
    if not set(row.ours) & set(processes) or (row.peers and not set(row.peers) & set(processes)):
        for process in processes.values():
            end(process)
        return replace(measured, missing="; ".join(dict.fromkeys(absent.values())))
    if row.passes:
        processes[LIMIT] = _start(LIMIT, work)
    try:
        seconds, memory = take_turns(processes, rounds)
    except ContenderError as error:
        return replace(measured, missing=str(error)[:200])
    costs = memory if row.figure == "memory" else {each: statistics.median(turns) for each, turns in seconds.items()}
    ours, peer = (
        min((each for each in side if each in costs), key=costs.__getitem__, default="")
        for side in (row.ours, row.peers)
    )
    return replace(
        measured,
        seconds=seconds,
        memory=memory,
        ours=ours,
        peer=peer,
        figure=costs[ours] / costs[peer] if peer else costs[ours],
        rate=2 * _macs(work) * work.batch * row.passes / costs[ours] if row.passes else None,
    )


def _ready(name: str, work: Work) -> "subprocess.Popen[str]":
    """A contender's process, with its file written.

    Raises:
        ContenderError: a library that is not installed, or what its process said when it ended.
    """
    if missing := [need for need in needs(name) if not importlib.util.find_spec(need)]:
        raise ContenderError(f"not installed: {', '.join(missing)}")
    _prepare(name, work)
    return _start(name, work)


def _macs(work: Work) -> int:
    structure = find_architecture(work.architecture).structure
    return sum(cost.macs for cost in count_costs(structure, work.size))


def _prepare(name: str, work: Work) -> None:
    """Writes what the contender reads, once for each architecture and size."""
    folder, file = _folder(work), CONTENDERS[name].file
    if not file or (folder / file).exists():
        return
    folder.mkdir(exist_ok=True)
    environment = {**_environment(name, work), "KERAS_BACKEND": "tensorflow"}
    done = subprocess.run(_command("prepare", file, work), capture_output=True, text=True, env=environment)
    if done.returncode:
        raise ContenderError((done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1])


def _start(name: str, work: Work) -> "subprocess.Popen[str]":
    return start(_command("run", name, work), _environment(name, work))


def _folder(work: Work) -> Path:
    return work.folder / f"{work.architecture}-{work.size}"


def _command(task: str, name: str, work: Work) -> list[str]:
    fields = {**asdict(work), "folder": str(_folder(work))}
    return [sys.executable, str(_CHILD), task, name, json.dumps(fields)]


def _environment(name: str, work: Work) -> dict[str, str]:
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    for variable in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"):
        environment.setdefault(variable, str(work.threads))
    if backend := CONTENDERS[name].backend:
        environment["KERAS_BACKEND"] = backend
    elif not importlib.util.find_spec("tensorflow"):
        environment.setdefault("KERAS_BACKEND", "jax")
    return environment


def has_gpu() -> bool:
    """Whether PyTorch or JAX, if installed, would compute on a GPU."""
    return Path("/dev/nvidiactl").exists() or Path("/dev/kfd").exists()


def describe_machine(threads: int) -> dict[str, Any]:
    """Processor, system and versions."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "processor": _processor(),
        "gpu": _gpu(),
        "cores": os.cpu_count(),
        "threads": threads,
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": versions,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
    }


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    known = {key.strip(): value.strip() for key, value in fields.items()}
    sets = [name for name in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "asimd")
            if name in f"{known.get('flags', '')} {known.get('Features', '')}".split()]  # fmt: skip
    return f"{known.get('model name', platform.machine())} ({', '.join(sets)})"


def _gpu() -> str | None:
    if not has_gpu():
        return None
    try:
        told = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"], capture_output=True, text=True
        )
    except OSError:
        return "unknown"
    return told.stdout.strip() or "unknown"
