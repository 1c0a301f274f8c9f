"""Kills training at random moments and checks that the weights in the end are those of a run that was left alone.

python tools/kill_training.py --kills 20
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from keras_resnext.digits import write_folders

OPTIONS = (
    *("--model", "resnext29_8x64d", "--recipe", "cifar", "--option", "blocks=[1,1,1]", "--option", "strides=[2,2,2]"),
    *("--option", "groups=8", "--option", "width_per_group=4", "--option", "stem_channels=16"),
    *("--option", "base_channels=16", "--image-size", "16", "--flip", "0", "--crop-padding", "2", "--batch-size", "32"),
    *("--epochs", "3", "--ema", "0.2", "--drop-path-rate", "0.1", "--mixup", "0.2", "--policy", "rand_augment"),
    *("--save-steps", "5"),
)


def command(data: Path, output: Path) -> list[str]:
    code = "from keras_resnext.cli import run; run()"
    return [sys.executable, "-c", code, "train", str(data), "--output", str(output), *OPTIONS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "digits")
        write_folders(data)
        whole, broken = Path(folder, "whole"), Path(folder, "broken")
        started = time.monotonic()
        subprocess.run(command(data, whole), check=True, stdout=subprocess.DEVNULL)
        length = time.monotonic() - started
        print(f"uninterrupted: {length:.1f} s", flush=True)
        kills = stopped = 0
        while True:
            process = subprocess.Popen(command(data, broken), stdout=subprocess.DEVNULL)
            try:
                # A start takes most of a run; between kills it has to get somewhere now and then.
                wait = rng.uniform(0.3, 1.1) * length if kills < arguments.kills else None
                process.wait(wait)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                kills += 1
                state = broken / "checkpoint.npz"
                step = int(np.load(state)["model/0"].size > 0) if state.exists() else 0
                print(f"kill {kills} after {wait:.1f} s, {'state there' if step else 'nothing saved'}", flush=True)
                continue
            if process.returncode:
                sys.exit(f"exit code {process.returncode}")
            if left := [file.name for file in broken.iterdir() if file.name.startswith(".")]:
                sys.exit(f"left behind: {', '.join(left)}")
            same = compare(whole / "checkpoint.npz", broken / "checkpoint.npz")
            stopped += 1
            print(f"finished {stopped} after {kills} kills: {'bit-equal' if same else 'DIFFERENT'}", flush=True)
            if not same:
                sys.exit(1)
            if kills >= arguments.kills:
                return
            for file in broken.iterdir():
                file.unlink()


def compare(first: Path, second: Path) -> bool:
    with np.load(first) as a, np.load(second) as b:
        return set(a) == set(b) and all(np.array_equal(a[name], b[name]) for name in a if name != "state")


if __name__ == "__main__":
    main()
