"""Times a checkpoint's way into Keras beside torch.load, each run in a fresh process and interleaved.

    python tools/benchmark/loading.py [--architecture resnext101_64x4d] [--rounds 5]

Needs torch. Prints medians: torch.load; ours, from the path to a model whose variables hold the weights, without the
time to build it; the same in a process that has loaded before; the extra peak memory; the whole way to a .keras file.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

TORCH = """
import json, sys, time
import torch
times = []
for _ in range(3):
    start = time.perf_counter()
    state = torch.load(sys.argv[1], weights_only=True)
    times.append(time.perf_counter() - start)
    del state
print(json.dumps({"first": times[0], "again": min(times[1:])}))
"""
OURS = """
import json, sys, time
import keras_resnext
def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) * 1024
model = keras_resnext.create(sys.argv[2])
before, times = peak(), []
for _ in range(3):
    start = time.perf_counter()
    keras_resnext.load_pytorch_weights(model, sys.argv[1])
    times.append(time.perf_counter() - start)
    if len(times) == 1:
        memory = peak() - before
print(json.dumps({"first": times[0], "again": min(times[1:]), "memory": memory}))
"""
CONVERT = """
import json, sys, time
start = time.perf_counter()
from keras_resnext.conversion import convert
convert(sys.argv[1], sys.argv[2])
print(json.dumps({"first": time.perf_counter() - start}))
"""


def run(code: str, *arguments: object) -> dict[str, float]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment)
    result: dict[str, float] = json.loads(output.stdout.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", default="resnext101_64x4d")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    import keras_resnext

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.pth")
        keras_resnext.save_pytorch_weights(keras_resnext.create(options.architecture), path, layout="timm")
        size = path.stat().st_size
        torch, ours, convert = [], [], []
        for _ in range(options.rounds):
            torch.append(run(TORCH, path))
            ours.append(run(OURS, path, options.architecture))
            convert.append(run(CONVERT, path, Path(folder, "model.keras")))
    print(f"{options.architecture}, {size / 1e6:.0f} MB .pth, medians of {options.rounds} interleaved rounds")
    for kind, title in (("first", "in a fresh process"), ("again", "once more in it")):
        a, b = (statistics.median(row[kind] for row in rows) for rows in (ours, torch))
        print(f"load, {title}: {a:.3f} s; torch.load {b:.3f} s; ratio {a / b:.2f}")
    memory = statistics.median(row["memory"] for row in ours)
    print(f"extra peak memory: {memory / 1e6:.0f} MB, {memory / size:.2f} x the file")
    print(
        f".pth to .keras on disk, imports and building included: {statistics.median(r['first'] for r in convert):.1f} s"
    )


if __name__ == "__main__":
    main()
