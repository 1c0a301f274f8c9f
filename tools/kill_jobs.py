"""Kills every kind of job that writes, at random moments, and checks that the same command then succeeds.

Half of the kills (SIGKILL) come at a random time, half at a random change of a file, a name or a folder. Afterwards the
same command has to end well, with the result of a run that was left alone and with nothing beside it.

python tools/kill_jobs.py --kills 30
python tools/kill_jobs.py --kills 10 --jobs train
"""

import argparse
import hashlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_resnext import cli
from keras_resnext.export.models_config import FILE, LOCK, parse_config
from keras_resnext.serving.model_base import check_hashes, find_versions, read_manifest
from keras_resnext.weights.download import download
from tests.file_server import serve

TRAINING = (
    *("--model", "resnext29_8x64d", "--recipe", "cifar", "--option", "blocks=[1,1,1]", "--option", "strides=[2,2,2]"),
    *("--option", "groups=8", "--option", "width_per_group=4", "--option", "stem_channels=16"),
    *("--option", "base_channels=16", "--image-size", "16", "--flip", "0", "--crop-padding", "2", "--batch-size", "32"),
    *("--epochs", "3", "--ema", "0.2", "--drop-path-rate", "0.1", "--mixup", "0.2", "--policy", "rand_augment"),
    *("--save-steps", "5"),
)
# Several labels with weights and balance, two classes, and BCE with LAMB and growing images; all with accumulation.
TASKS = {
    "train_multi": ("pairs.csv", "--balanced-sampling", "--class-weights", "balanced"),
    "train_binary": ("odd.csv", "--loss", "focal", "--label-smoothing", "0.1"),
    "train_bce": ("digits", "--loss", "bce", "--optimizer", "lamb", "--layer-decay", "0.8", "--progressive-size", "12"),
}
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.truncate", "shutil.rmtree"}  # and open


@dataclass(frozen=True)
class Job:
    """One kind of job.

    Attributes:
        run: does it, in the folder `out`, from what lies beside it.
        same: whether two folders hold the same result.
        done: whether a result is whole though the command, given again, refuses: there is nothing left to do.
        prepare: fills `out` before.
    """

    run: Callable[[], None]
    same: Callable[[Path, Path], bool]
    done: bool = False
    prepare: Callable[[Path], None] = Path.mkdir


def command(*arguments: str) -> Callable[[], None]:
    return lambda: cli.main(list(arguments))


def same_bytes(first: Path, second: Path) -> bool:
    def digests(folder: Path) -> dict[str, str]:
        files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
        return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}

    return digests(first) == digests(second) != {}


def same_weights(first: Path, second: Path) -> bool:
    """Of ONNX files, in which names are counted on from run to run."""
    import onnx

    models = [onnx.load(folder / "m.onnx") for folder in (first, second)]
    values = [sorted(array.raw_data for array in model.graph.initializer) for model in models]
    return values[0] == values[1] != []


def same_versions(_: Path, second: Path) -> bool:
    versions = find_versions(second / "net")
    return bool(versions) and all(check_hashes(path, read_manifest(path)) == "match" for path in versions.values())


def same_training(first: Path, second: Path) -> bool:
    with np.load(first / "checkpoint.npz") as a, np.load(second / "checkpoint.npz") as b:
        return set(a) == set(b) and all(np.array_equal(a[name], b[name]) for name in a if name != "state")


def same_base(first: Path, second: Path) -> bool:
    labels = [parse_config((place / FILE).read_text())["net"].labels for place in (first, second)]
    return labels[0] == labels[1] and find_versions(first / "net").keys() == find_versions(second / "net").keys()


def make_base(out: Path) -> None:
    for number in (1, 2, 3):
        (out / "net" / str(number)).mkdir(parents=True)
        (out / "net" / str(number) / "saved_model.pb").write_bytes(bytes(1000))
    (out / FILE).write_text('model_config_list {\n  config {\n    name: "net"\n    base_path: "/models/net"\n  }\n}\n')


def jobs(address: str, prefix: str) -> dict[str, Job]:
    def fetch() -> None:
        download(address, Path("out/f.pth"), prefix)

    return {
        "records": Job(command("records", "images", "out", "--shards", "4"), same_bytes, done=True),
        "convert": Job(command("convert", "m.keras", "out/m.safetensors"), same_bytes),
        "folder": Job(command("convert", "m.keras", "out", "--layout", "timm"), same_bytes, done=True),
        "saved_model": Job(command("export", "m.keras", "out/net"), same_versions),
        "tflite": Job(command("export", "m.keras", "out/m.tflite", "--format", "tflite"), same_bytes),
        "onnx": Job(command("export", "m.keras", "out/m.onnx", "--format", "onnx"), same_weights),
        "features": Job(command("features", "m.keras", "images/a", "--output", "out/f.npy"), same_bytes),
        "download": Job(fetch, same_bytes),
        "label": Job(command("models", "label", "out/net/2", "stable"), same_base, prepare=make_base),
        "rm": Job(command("models", "rm", "out/net/1"), same_base, done=True, prepare=make_base),
        "train": Job(command("train", "digits", "--output", "out", *TRAINING), same_training),
        **{
            name: Job(command("train", *words, "--output", "out", *TRAINING, "--accumulate", "2"), same_training)
            for name, words in TASKS.items()
        },
    }


def start(job: Job, die_at: int | None, count: Path | None = None) -> int:
    """The process of a job, forked from this one, which has imported everything; its changes are counted, or end it."""
    if process := os.fork():
        return process
    code, changes, place = 1, 0, os.path.abspath("out")
    log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal changes
        made = event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_CREAT
        if (made or event in CHANGES) and str(arguments[0]).startswith((place, "out")):
            changes += 1
            if changes == die_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    try:
        job.run()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        if count:
            count.write_text(str(changes))
        os._exit(code)


def finish(job: Job) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(start(job, None), 0)[1])


def litter(out: Path) -> list[str]:
    return [str(path) for path in out.rglob("*") if path.name.endswith(".part") or path.name.startswith(".")
            if path.name != LOCK]  # fmt: skip


def attack(name: str, job: Job, kills: int, rng: random.Random) -> None:
    out, whole = Path("out"), Path(f"whole_{name}")
    job.prepare(out)
    began = time.monotonic()
    process = start(job, None, Path("changes"))
    if code := os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]):
        sys.exit(f"{name}: exit code {code} without a kill; see {Path('log').read_text()[-1000:]}")
    length, changes = time.monotonic() - began, int(Path("changes").read_text())
    out.rename(whole)
    killed = left = refused = 0
    for number in range(kills):
        job.prepare(out)
        by_change = number % 2
        process = start(job, rng.randint(1, changes) if by_change else None)
        if not by_change:
            time.sleep(rng.uniform(0, 1) * length)
            os.kill(process, signal.SIGKILL)
        killed += os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
        left += bool(litter(out))
        if (code := finish(job)) and not (job.done and job.same(whole, out)):
            sys.exit(f"{name}: kill {number} of {kills}: then exit code {code}; {Path('log').read_text()[-1000:]}")
        refused += bool(code)
        if found := litter(out):
            sys.exit(f"{name}: kill {number}: left behind: {', '.join(found)}")
        if not job.same(whole, out):
            sys.exit(f"{name}: kill {number}: another result")
        shutil.rmtree(out)
    shutil.rmtree(whole)
    print(
        f"{name}: {length:.1f} s and {changes} changes; {killed} killed of {kills}, {left} left something aside, "
        f"{refused} were already whole; every next run right, nothing left",
        flush=True,
    )


def make_material() -> None:
    """In a process of its own: TensorFlow does not survive a fork once it has run."""
    from PIL import Image

    from keras_resnext import ResNeXt
    from keras_resnext.digits import write_folders

    options = {"blocks": (1, 1, 1, 1), "groups": 4, "width_per_group": 4, "base_channels": 8, "classes": 2}
    ResNeXt(**options, input_shape=(32, 32, 3)).save("m.keras")
    write_folders(Path("digits"))
    files = sorted(Path("digits/train").rglob("*.png"))
    rows = [(file, int(file.parent.name)) for file in files]
    Path("pairs.csv").write_text("path,labels\n" + "".join(f"{f},{n}|{n * 3 % 10}\n" for f, n in rows))
    Path("odd.csv").write_text("path,odd\n" + "".join(f"{f},{n % 2}\n" for f, n in rows))
    for name in "ab":
        Path("images", name).mkdir(parents=True)
        for index in range(40):
            image = np.random.default_rng(index).integers(0, 256, (32, 32, 3), "uint8")
            Image.fromarray(image).save(f"images/{name}/{index}.png")
    Path("served").mkdir()
    Path("served/f.pth").write_bytes(np.random.default_rng(0).bytes(4_000_000))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", nargs="*", help="default all")
    arguments = parser.parse_args()
    import keras  # noqa: F401
    import tensorflow as tf  # noqa: F401

    import keras_resnext.export
    import keras_resnext.training  # noqa: F401

    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        if not (process := os.fork()):
            make_material()
            os._exit(0)
        os.waitpid(process, 0)
        with serve(Path("served").absolute()) as server:
            server.pause = 0.01
            digest = hashlib.sha256(Path("served/f.pth").read_bytes()).hexdigest()
            table = jobs(server.url("f.pth"), digest[:8])
            for name in arguments.jobs or table:
                attack(name, table[name], arguments.kills, random.Random(arguments.seed))


if __name__ == "__main__":
    main()
