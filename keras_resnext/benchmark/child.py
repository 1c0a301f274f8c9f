"""The process of one contender. A script, so that contenders that need neither Keras nor TensorFlow load neither.

python child.py prepare|run CONTENDER '{"batch": 1, …}'
"""

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[2])

from keras_resnext.benchmark.work import CONTENDERS, FILES, Seconds, Work  # noqa: E402

WARM = 3  # runs before "ready"
LONG = 20.0  # seconds after which they are enough
TURN = 0.3  # seconds of one turn, where a run is shorter


def find(place: str) -> Callable[[Work], Any]:
    module, _, function = place.partition(":")
    return getattr(importlib.import_module(f"keras_resnext.benchmark.{module}"), function)


def peak_memory() -> int:
    """The most bytes that this process has held."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def resident_memory() -> int:
    """Bytes that this process holds now; where that cannot be told, the most that it has held."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return peak_memory()


def time_turn(run: Callable[[], Any]) -> float:
    """Seconds of one run; of short ones the median over TURN seconds, without the first, before which threads slept."""
    seconds: list[float] = []
    begun = time.perf_counter()
    while not seconds or time.perf_counter() - begun < TURN:
        start = time.perf_counter()
        own = run()
        seconds.append(own if isinstance(own, Seconds) else time.perf_counter() - start)
    return median(seconds[1:] or seconds)


def main(task: str, name: str, text: str) -> None:
    fields = json.loads(text)
    work = Work(**{**fields, "folder": Path(fields["folder"])})
    if task == "prepare":
        find(FILES[name][0])(work)
        return
    if CONTENDERS[name].one_core and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    for library in CONTENDERS[name].loads:
        importlib.import_module(library)
    base = resident_memory() if CONTENDERS[name].loads else 0
    run = find(CONTENDERS[name].run)(work)
    begun = time.perf_counter()
    for _ in range(WARM):
        run()
        if time.perf_counter() - begun > LONG:
            break
    print("ready", flush=True)
    for _ in sys.stdin:
        print(time_turn(run), peak_memory() - base, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
