"""Times a training step of ResNeXt-50 32x4d against PyTorch eager on the CPU, interleaved in one process.

    python tools/benchmark/training_step.py [--batch 8] [--size 224] [--rounds 7]

Both do forward, backward and SGD with momentum in float32 on the same pictures with 2 threads. Ours goes through plain
`compile` and `fit`-style `train_on_batch` with default arguments. Prints each round, the medians and their ratio.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

THREADS = 2


def ours(batch: int, size: int) -> Callable[[], None]:
    import keras
    import numpy as np
    import tensorflow as tf

    import keras_resnext

    tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    model = keras_resnext.ResNeXt50(input_shape=(size, size, 3))
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "sparse_categorical_crossentropy")
    rng = np.random.default_rng(0)
    images = rng.standard_normal((batch, size, size, 3), dtype=np.float32)
    labels = rng.integers(0, 1000, batch)
    return lambda: model.train_on_batch(images, labels)


def pytorch(batch: int, size: int) -> Callable[[], None]:
    import torch

    library = torch.library.Library("torchvision", "DEF")
    for op in ("nms", "qnms"):  # declared so that torchvision imports on a CPU build of torch
        library.define(op + "(Tensor boxes, Tensor scores, float threshold) -> Tensor")
    import torchvision

    torch.set_num_threads(THREADS)
    model = torchvision.models.resnext50_32x4d(weights=None).train()
    optimiser = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    images, labels = torch.randn(batch, 3, size, size), torch.randint(0, 1000, (batch,))

    def step() -> None:
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimiser.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    steps = {
        "keras_resnext": ours(arguments.batch, arguments.size),
        "pytorch": pytorch(arguments.batch, arguments.size),
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    for round_number in range(arguments.rounds + 2):  # two rounds to warm up
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if round_number >= 2:
                times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(
        json.dumps(
            {"seconds": times, "median": medians, "ratio": medians["keras_resnext"] / medians["pytorch"]}, indent=1
        )
    )


if __name__ == "__main__":
    main()
