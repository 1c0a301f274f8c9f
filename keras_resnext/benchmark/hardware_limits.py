"""What the machine can do at best: a large matrix product for arithmetic, a large copy for memory."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from .work import Work

SIDE = 2048
BYTES = 256 << 20


def matmul(work: Work) -> Callable[[], object]:
    """On Keras's backend, in the precision of `work`; 2 * SIDE**3 FLOP."""
    import keras
    from keras import ops

    kind = "bfloat16" if work.precision == "bfloat16" else "float32"
    array = np.random.default_rng(0).standard_normal((SIDE, SIDE)).astype("float32")
    matrix: Any = ops.cast(ops.convert_to_tensor(array), kind)
    if keras.backend.backend() == "jax":
        import jax

        jax.config.update("jax_default_matmul_precision", "highest" if work.precision == "float32" else "default")
        product = jax.jit(lambda a: a @ a)
        return lambda: jax.block_until_ready(product(matrix))
    return lambda: ops.convert_to_numpy(ops.matmul(matrix, matrix)[:1, :1])


def copy(work: Work) -> Callable[[], object]:
    """By as many threads as a contender has; reads and writes BYTES each."""
    source = np.ones(BYTES, "uint8")
    target = np.zeros_like(source)
    parts = np.array_split(np.arange(BYTES), work.threads)
    slices = [slice(int(part[0]), int(part[-1]) + 1) for part in parts]
    del parts
    pool = ThreadPoolExecutor(work.threads)
    return lambda: list(pool.map(lambda part: np.copyto(target[part], source[part]), slices))
