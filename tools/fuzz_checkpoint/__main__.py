"""Makes hostile checkpoints and takes them all the way: each must end in a result or in CheckpointError, within bounds.

    python tools/fuzz_checkpoint --cases 100000                    # bytes and grammar through the reader
    python tools/fuzz_checkpoint --cases 10000 --through info      # state_dicts of every meaning through info
    python tools/fuzz_checkpoint --cases 1000 --through load       # and loaded; or --through convert
    python tools/fuzz_checkpoint --cases 20000 --through torch     # beside torch.load(weights_only=True)

The bounds: 1 s and 1 s more for each 100 MB of the file, of processor time; twice the file and 100 MB of memory. Needs
torch and Linux. Exits with 1 and keeps the file of each case that ended otherwise.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from keras_resnext.pytorch.checkpoint import CheckpointError, write_checkpoint
from tools.fuzz_checkpoint import byte_mutations, grammar, meaning
from tools.fuzz_checkpoint.targets import TARGETS, compare_with_torch

Maker = Callable[[random.Random, Path], object]


def mutated(pool: list[byte_mutations.Sample]) -> Maker:
    def make(rng: random.Random, path: Path) -> None:
        source, finish = rng.choice(pool)
        path.write_bytes(finish(byte_mutations.mutate(rng, source)))

    return make


def from_grammar(make: Callable[[random.Random], bytes]) -> Maker:
    return lambda rng, path: path.write_bytes(make(rng))


def from_meaning(rng: random.Random, path: Path) -> None:
    """A state_dict as torch saves it; every fourth also with changed bytes."""
    import torch

    value = meaning.state(rng, rng.choice((0, 1, 2, 4)))
    data = _tensors(value, torch)
    torch.save(data, path, _use_new_zipfile_serialization=rng.random() < 0.7)
    if isinstance(value, dict) and rng.random() < 0.2 and all(hasattr(v, "dtype") for v in value.values()):
        path.unlink()
        aside = path.with_name("case.safetensors")
        write_checkpoint(aside, value)
        aside.rename(path)
    if rng.random() < 0.25:
        path.write_bytes(byte_mutations.mutate(rng, path.read_bytes()))


def makers(through: str) -> list[Maker]:
    """What makes the cases, one after the other."""
    if through == "read":
        return [mutated(byte_mutations.samples()), from_grammar(grammar.case)]
    if through == "torch":
        return [mutated(byte_mutations.samples(safetensors=False)), from_grammar(grammar.of_torch)]
    return [from_meaning]


def _tensors(value: object, torch: object) -> object:
    import numpy as np

    if isinstance(value, np.ndarray):
        if value.size and not any(value.strides):  # one number under all indices
            return torch.zeros((), dtype=torch.int8).expand(value.shape)  # type: ignore[attr-defined]
        return torch.from_numpy(value.copy())  # type: ignore[attr-defined]
    if isinstance(value, dict):
        return {key: _tensors(item, torch) for key, item in value.items()}
    return [_tensors(item, torch) for item in value] if isinstance(value, list) else value


def _memory(field: str) -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith(field))


def run(
    cases: int,
    seed: int,
    through: str,
    how: list[Maker],
    folder: Path,
    keep: Path | None,
    report: Callable[[str], None],
    seconds: float = 1,
) -> tuple[int, Counter[str]]:
    """Runs the cases; the number that broke a rule, and how many ended how. `seconds` may be of the smallest file."""
    rng, path = random.Random(seed), folder / "case.pth"
    target = compare_with_torch if through == "torch" else TARGETS[through]
    ends: Counter[str] = Counter()
    worst_time, worst_memory, bad = 0.0, 0, 0
    for case in range(cases):
        path.unlink(missing_ok=True)  # never shorten a file that an array still maps
        how[case % len(how)](rng, path)
        size = path.stat().st_size
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again at what is in use now
        before, start, fault = _memory("VmRSS"), time.process_time(), ""
        try:
            end = target(path)
        except CheckpointError:
            end = "CheckpointError"
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            end = fault = f"{type(error).__name__}: {str(error)[:150]}"
        took, memory = time.process_time() - start, max(0, _memory("VmHWM") - before)
        ends[end] += 1
        if through in ("read", "info"):
            worst_time, worst_memory = max(worst_time, took), max(worst_memory, memory)
            if took > seconds + size / 100e6:
                fault = fault or f"{took:.2f} s for {size} bytes"
            if memory > 2 * size + 100e6:
                fault = fault or f"{memory / 1e6:.0f} MB for {size} bytes"
        if fault:
            bad += 1
            report(f"case {case}: {fault}")
            if keep is not None:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{through}-{seed}-{case}").write_bytes(path.read_bytes())
    report(f"{through}, seed {seed}: {cases} cases, worst {worst_time * 1000:.0f} ms and {worst_memory / 1e6:.1f} MB")
    for end, count in ends.most_common():
        report(f"{count:10,}  {end}")
    return bad, ends


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--through", choices=(*TARGETS, "torch"), default="read")
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir(), "fuzz_checkpoint"), metavar="FOLDER")
    options = parser.parse_args()
    warnings.simplefilter("error")  # a warning out of a hostile file would be a hole too
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        bad, _ = run(
            options.cases,
            options.seed,
            options.through,
            makers(options.through),
            Path(folder),
            options.keep,
            lambda line: print(line, flush=True),
        )
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
