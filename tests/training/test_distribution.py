"""Several processes: what they compute together is what one computes alone, and one that is lost is noticed."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import typer
import yaml

from keras_resnext import cli
from keras_resnext.training import distribution
from tests.training.small_runs import SMALL

CODE = "from keras_resnext.cli import run; run()"
# Optimising takes XLA longer than such a run.
ON_JAX = {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}


def start(data, output, *arguments):
    environment = {**os.environ, "KERAS_BACKEND": "jax", **ON_JAX}
    command = [sys.executable, "-c", CODE, "train", str(data), "--output", str(output), *SMALL, *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def start_two(data, output, *arguments):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    return [
        start(data, output, *arguments, "--coordinator", address, "--processes", "2", "--process", str(i))
        for i in range(2)
    ]


def read_history(folder):
    with open(folder / "history.csv") as file:
        return [{k: float(v) for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


ARGUMENTS = ("--batch-size", "64", "--epochs", "2", "--sync-bn")


@pytest.fixture(scope="module")
def alone(digits, tmp_path_factory):
    """What one process computes on one device, on JAX."""
    output = tmp_path_factory.mktemp("alone")
    process = start(digits, output, *ARGUMENTS)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return output


@pytest.mark.slow
def test_two_processes_compute_what_one_does_and_notice_a_loss(digits, alone, tmp_path):
    both = start_two(digits, tmp_path / "both", *ARGUMENTS)
    while not (tmp_path / "both" / "checkpoint.npz").exists():
        assert both[0].poll() is None, both[0].communicate()
        time.sleep(0.05)
    both[1].send_signal(signal.SIGKILL)
    _, errors = both[0].communicate(timeout=120)
    both[1].communicate()
    if both[0].returncode:  # else it had been through already
        assert both[0].returncode == 2, errors
        assert "process 0 of 2 lost the others" in errors
        assert "start all of them again" in errors
    for process in (again := start_two(digits, tmp_path / "both", *ARGUMENTS)):
        process.wait(timeout=300)
    assert [process.returncode for process in again] == [0, 0], again[0].communicate()[1]

    for one, two in zip(read_history(alone), read_history(tmp_path / "both"), strict=True):
        assert one == pytest.approx(two, rel=1e-4, abs=1e-6)
    with np.load(alone / "checkpoint.npz") as a, np.load(tmp_path / "both" / "checkpoint.npz") as b:
        for name in a:
            if name.startswith("model/"):
                np.testing.assert_allclose(a[name], b[name], rtol=1e-3, atol=1e-4)


# On TensorFlow they pass for GPUs where it is decided whether XLA compiles the step: it cannot for several.
TWO_DEVICES = {
    "tensorflow": "import tensorflow as tf; tf.config.set_logical_device_configuration("
    "tf.config.list_physical_devices('CPU')[0], [tf.config.LogicalDeviceConfiguration()] * 2); "
    "import keras_resnext.training.setup; from keras_resnext.training import distribution; "
    "from keras_resnext.network import layers; "
    "distribution.has_gpu = lambda: True; "
    "layers.GroupedConv2D.supports_jit = property(lambda self: True, lambda self, value: None); ",
    "jax": "import os; os.environ['XLA_FLAGS'] = '--xla_force_host_platform_device_count=2'; ",
}


@pytest.mark.slow
@pytest.mark.parametrize("backend", TWO_DEVICES)
def test_two_devices_compute_what_one_does(backend, digits, alone, tmp_path):
    """tf.distribute.MirroredStrategy and keras.distribution.DataParallel, on one CPU that passes for two."""
    if backend == keras.backend.backend():
        alone = tmp_path / "one"
        with pytest.raises(SystemExit) as end:
            cli.main(["train", str(digits), "--output", str(alone), *SMALL, *ARGUMENTS])
        assert not end.value.code
    environment = {**os.environ, "KERAS_BACKEND": backend, **ON_JAX}
    command = [sys.executable, "-c", TWO_DEVICES[backend] + CODE, "train", str(digits), *SMALL, *ARGUMENTS]
    command += ["--output", str(tmp_path / "two")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    folders = (alone, tmp_path / "two")
    assert [json.loads((folder / "run.json").read_text())["devices"] for folder in folders] == [1, 2]
    histories = [read_history(folder) for folder in folders]
    for one, two in zip(*histories, strict=True):
        for name, value in one.items():  # sums in another order may tip one image to another class
            assert two[name] == pytest.approx(value, rel=1e-4, abs=3e-3 if "top" in name else 1e-6), name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"processes": 2}, "processes=2 needs coordinator"),
        ({"coordinator": "host:1"}, "processes must be given, or KERAS_RESNEXT_PROCESSES or SLURM_NTASKS"),
        ({"coordinator": "host:1", "processes": 2, "process": 2}, r"process=2 must lie in 0\.\.1"),
        ({"coordinator": "host", "processes": 2, "process": 0}, "must be HOST:PORT"),
    ],
)
def test_bad_arguments(arguments, message, monkeypatch):
    for name in ("SLURM_NTASKS", "SLURM_PROCID", distribution.COORDINATOR):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match=message):
        distribution.join(**arguments)


def test_the_job_s_manifest_says_what_the_command_reads(monkeypatch):
    service, job = yaml.safe_load_all((Path(__file__).parents[2] / "tools/train_job.yaml").read_text())
    pod = job["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    program, verb, *arguments = container["command"] + container["args"]
    assert program == "keras-resnext"
    context = typer.main.get_command(cli.app).commands[verb].make_context(verb, arguments)
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    assert environment.pop("KERAS_BACKEND") == "jax"
    for name, value in {**environment, "JOB_COMPLETION_INDEX": "9"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SLURM_PROCID", raising=False)
    with pytest.raises(ValueError, match=r"process=9 must lie in 0\.\.3, for processes=4"):
        distribution.join()
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == 4
    assert int(context.params["batch_size"]) % 4 == 0
    # process 0 is found by the name of its pod in the service
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    first = f"{job['metadata']['name']}-0.{pod['spec']['subdomain']}"
    assert environment["KERAS_RESNEXT_COORDINATOR"].split(":")[0] == first
    assert service["metadata"]["name"] == pod["spec"]["subdomain"]


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="JAX's trainer copies ahead by itself")
def test_batches_are_copied_to_a_device_ahead(monkeypatch):
    """A CPU passes for the GPU; `fit` must take as many batches as there are."""
    import tensorflow as tf

    batches = tf.data.Dataset.range(5).map(lambda i: (tf.fill((2, 3), float(i)), tf.one_hot([i % 2] * 2, 2)))
    assert distribution.prefetched(batches) is batches
    monkeypatch.setattr(distribution, "has_gpu", lambda: True)
    ahead = distribution.prefetched(batches, "/CPU:0")
    assert [float(x[0, 0]) for x, _ in ahead] == [0, 1, 2, 3, 4]
    assert distribution.prefetched([1]) == [1]


def test_alone():
    assert distribution.describe_devices() == "CPU"
    assert distribution.join() == (0, 1)
    assert distribution.shard() == (0, 1)
    assert distribution.devices() == 1
    with distribution.spread(), distribution.apart():
        assert keras.distribution.distribution() is None


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="several processes need JAX")
def test_tensorflow_has_no_several_processes():
    with pytest.raises(RuntimeError, match="several processes need Keras on JAX"):
        distribution.join("127.0.0.1:1", 2, 0)
