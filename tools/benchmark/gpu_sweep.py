"""Times training and inference on the GPU by lowering, batch and precision, each beside torch.compile.

    KERAS_BACKEND=jax python tools/benchmark/gpu_sweep.py [--batches 64 128 256] [--output sweep.json]

Prints images a second and their ratio to the peer's best of the same precision. On a CPU, `--size 64 --batches 2`
shows that it runs.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from keras_resnext.benchmark import ROWS, run_benchmark

KINDS = {"training": "gpu-training", "inference": "gpu-inference"}
LOWERINGS = {"grouped": ("grouped", 0), "merged 32": ("merged", 32), "merged 64": ("merged", 64)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", default="resnext50_32x4d")
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--precisions", nargs="+", default=["bfloat16", "tf32", "float32"])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path, help="where to write the figures as JSON")
    options = parser.parse_args()
    machine, everything = {}, []
    for kind, row in KINDS.items():
        for precision in options.precisions:
            rates: dict[str, dict[str, float]] = {}
            for name, (lowering, width) in LOWERINGS.items():
                for batch in options.batches:
                    changes = {"architecture": options.architecture, "size": options.size, "precision": precision}
                    changes |= {"batch": batch, "lowering": lowering, "width": width}
                    machine, (found,) = run_benchmark({row: ROWS[row]}, rounds=options.rounds, changes=changes)
                    everything.append({"kind": kind, "seconds": found.seconds, "limit": found.limit} | changes)
                    if found.missing:
                        print(f"{kind}, {precision}, {name}, batch {batch}: not measured: {found.missing}", flush=True)
                    for contender, values in found.seconds.items():
                        label = "torch.compile" if "torch" in contender else name
                        rate = batch / statistics.median(values)
                        rates.setdefault(label, {})[str(batch)] = max(rate, rates.get(label, {}).get(str(batch), 0))
            best = max(rates.get("torch.compile", {"-": float("nan")}).values())
            for label, by_batch in rates.items():
                shown = "  ".join(f"{batch}: {rate:.0f}" for batch, rate in by_batch.items())
                print(f"{kind:<10}{precision:<10}{label:<15}{shown}   {max(by_batch.values()) / best:.2f}", flush=True)
    if options.output:
        options.output.write_text(json.dumps({"machine": machine, "rows": everything}, indent=1) + "\n")


if __name__ == "__main__":
    main()
