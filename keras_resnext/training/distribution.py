"""Several GPUs of one host, or several hosts: what Keras supports on each backend.

TensorFlow: the GPUs of one host, or the logical CPUs it was divided into (tf.distribute.MirroredStrategy). JAX: the
devices of one or many hosts (keras.distribution.DataParallel over jax.distributed); BatchNorm's statistics are then
those of the whole batch.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

COORDINATOR, PROCESSES, PROCESS = "KERAS_RESNEXT_COORDINATOR", "KERAS_RESNEXT_PROCESSES", "KERAS_RESNEXT_PROCESS"


class ProcessLostError(RuntimeError):
    """Another process of the run has ended or cannot be reached."""


def join(coordinator: str | None = None, processes: int | None = None, process: int | None = None) -> tuple[int, int]:
    """Joins this process to the others, before anything else is computed.

    Args:
        coordinator: HOST:PORT of process 0, which all can reach; default the environment's KERAS_RESNEXT_COORDINATOR,
            and without it this process is alone.
        processes, process: how many there are, and which this is, from 0; default the environment's
            KERAS_RESNEXT_PROCESSES and KERAS_RESNEXT_PROCESS, under SLURM its own, and the index of a pod
            in a Kubernetes Job.

    Returns:
        (which process this is, how many there are).

    Raises:
        ValueError: numbers that do not fit.
        RuntimeError: another backend than JAX, or the others did not come.
    """
    coordinator = coordinator or os.environ.get(COORDINATOR)
    if coordinator is None:
        if processes or process:
            raise ValueError(f"processes={processes!r} needs coordinator, HOST:PORT of process 0")
        return 0, 1
    count = _number("processes", processes, PROCESSES, "SLURM_NTASKS")
    rank = _number("process", process, PROCESS, "SLURM_PROCID", "JOB_COMPLETION_INDEX")
    if not 0 <= rank < count:
        raise ValueError(f"process={rank!r} must lie in 0..{count - 1}, for processes={count}")
    if ":" not in coordinator:
        raise ValueError(f"coordinator={coordinator!r} must be HOST:PORT")
    if keras.backend.backend() != "jax":
        raise RuntimeError(
            f"several processes need Keras on JAX (set KERAS_BACKEND=jax), not {keras.backend.backend()!r}"
        )
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")  # of effect on CPUs alone
    try:
        jax.distributed.initialize(coordinator, count, rank)
    except RuntimeError as error:
        raise RuntimeError(f"process {rank} of {count} could not join {coordinator}: {error}") from None
    return rank, count


def _number(name: str, given: int | None, *variables: str) -> int:
    text = given if given is not None else next((os.environ[v] for v in variables if v in os.environ), None)
    if text is None:
        raise ValueError(f"{name} must be given, or {' or '.join(variables)} in the environment")
    return int(text)


@contextmanager
def spread() -> Iterator[None]:
    """Models built and trained inside use all devices: of this host on TensorFlow, of all processes on JAX."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        if jax.device_count() > 1:
            before = keras.distribution.distribution()
            keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))
            try:
                yield
            finally:
                keras.distribution.set_distribution(before)
            return
    elif backend == "tensorflow":
        import tensorflow as tf

        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        if len(devices) > 1:
            with tf.distribute.MirroredStrategy([device.name for device in devices]).scope():
                yield
            return
    yield


@contextmanager
def apart() -> Iterator[None]:
    """What one process does alone, such as saving: inside `spread`, JAX would wait for the others at every tensor."""
    before = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(before)


def shard() -> tuple[int, int]:
    """(which process this is, how many there are)."""
    if keras.backend.backend() != "jax":
        return 0, 1
    import jax

    return jax.process_index(), jax.process_count()


def devices() -> int:
    """How many devices share a batch."""
    current = keras.distribution.distribution()
    if current is not None:
        return int(current.device_mesh.devices.size)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return int(tf.distribute.get_strategy().num_replicas_in_sync)
    return 1


def prefetched(batches: Any, device: str = "/GPU:0") -> Any:
    """A tf.data.Dataset that TensorFlow copies to its one GPU ahead of the step; anything else as it is.

    JAX's trainer and tf.distribute do so by themselves.
    """
    if keras.backend.backend() != "tensorflow" or not has_gpu() or devices() > 1:
        return batches
    import tensorflow as tf

    if not isinstance(batches, tf.data.Dataset):
        return batches
    return batches.apply(tf.data.experimental.prefetch_to_device(device, 2))


def describe_devices() -> str:
    """The devices that share a batch, such as "CPU" or "4 GPUs"."""
    kind = "GPU" if has_gpu() else "CPU"
    if keras.backend.backend() == "jax":
        import jax

        kind = jax.default_backend().upper()
    return kind if devices() == 1 else f"{devices()} {kind}s"


def has_gpu() -> bool:
    """Whether the current backend computes on a GPU."""
    if keras.backend.backend() == "jax":
        import jax

        return bool(jax.default_backend() == "gpu")
    return bool(keras.distribution.list_devices("gpu"))
