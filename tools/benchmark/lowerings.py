"""Times a training step of ResNeXt-50 32x4d by the lowering of its grouped convolutions, on Keras's current backend.

    KERAS_BACKEND=jax python tools/benchmark/lowerings.py --policy mixed_bfloat16 --batch 128 --widths 32 64 128

Interleaves the variants; prints the median of each and its ratio to `grouped`. The choice in keras_resnext/layers.py
rests on such figures.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import keras
import numpy as np

from keras_resnext import ResNeXt50, layers


def training_step(arguments: argparse.Namespace, lowering: str, width: int) -> Callable[[], None]:
    layers.MERGED_WIDTH = width
    model = ResNeXt50(input_shape=(arguments.size, arguments.size, 3))
    for layer in model.layers:
        if isinstance(layer, layers.GroupedConv2D):
            layer.lowering = lowering
    rng = np.random.default_rng(0)
    images = rng.standard_normal((arguments.batch, arguments.size, arguments.size, 3), dtype=np.float32)
    labels = rng.integers(0, 1000, arguments.batch)
    loss = keras.losses.SparseCategoricalCrossentropy()
    if keras.backend.backend() != "jax":
        model.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss)
        model.train_on_batch(images, labels)
        return lambda: model.train_on_batch(images, labels)

    import jax

    def objective(weights, state, x, y):
        scores, state = model.stateless_call(weights, state, x, training=True)
        return loss(y, scores), state

    @jax.jit
    def step(weights, momenta, state):
        (_, state), gradients = jax.value_and_grad(objective, has_aux=True)(weights, state, images, labels)
        momenta = [0.9 * m - 0.01 * g for m, g in zip(momenta, gradients, strict=True)]
        return [w + m for w, m in zip(weights, momenta, strict=True)], momenta, state

    images, labels = jax.device_put(images), jax.device_put(labels)
    weights, state = ([v.value for v in vs] for vs in (model.trainable_variables, model.non_trainable_variables))
    holder = [(weights, [jax.numpy.zeros_like(w) for w in weights], state)]

    def run() -> None:
        holder[0] = jax.block_until_ready(step(*holder[0]))

    run()
    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--policy", default="float32")
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 32, 64])
    arguments = parser.parse_args()
    keras.config.set_dtype_policy(arguments.policy)
    steps = {"grouped": training_step(arguments, "grouped", 32)}
    for width in arguments.widths:
        steps[f"merged {width}"] = training_step(arguments, "merged", width)
        print(f"compiled merged {width}", flush=True)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(arguments.rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, median in medians.items():
        print(f"{name:12} {median * 1000:9.1f} ms   {median / medians['grouped']:.2f} x grouped")
    print(json.dumps({"batch": arguments.batch, "policy": arguments.policy, "seconds": times}))


if __name__ == "__main__":
    main()
