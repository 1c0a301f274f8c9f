"""What training changes and what it does not; recomputation. Runs on the JAX backend too (test_backends.py)."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

from keras_resnext import ResNeXt
from tests.support import randomise, relative_error

SMALL = dict(
    blocks=(1, 2, 1), num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1), groups=4, width_per_group=4, base_channels=8
)
SMALL |= dict(stem_channels=8, classes=5, input_shape=(32, 32, 3))


def batch(size=8):
    rng = np.random.default_rng(0)
    return rng.standard_normal((size, 32, 32, 3)).astype("float32"), rng.integers(0, 5, size)


def train(model, steps=2, momentum=0.9, eager=False):
    """Losses of some steps; `eager` saves TensorFlow the seconds of tracing, where their graph does not matter."""
    eager = eager and keras.backend.backend() == "tensorflow"
    optimizer = keras.optimizers.SGD(0.05, momentum=momentum)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(), run_eagerly=eager)
    return [float(model.train_on_batch(*batch())) for _ in range(steps)]


def changed(model, steps=2):
    """(names of changed weights, names of changed statistics) after some steps."""
    before = {v.path: ops.convert_to_numpy(v) for v in model.variables}
    train(model, steps, eager=True)
    names = {v.path for v in model.variables if not np.array_equal(before[v.path], ops.convert_to_numpy(v))}
    statistics = {name for name in names if "moving_" in name}
    return names - statistics, statistics


def paths(model, *parts, statistics=False):
    """Paths of the weights, or of the statistics, under layers that start with one of `parts`."""
    every = {v.path for v in model.variables if ("moving_" in v.path) == statistics and "seed" not in v.path}
    return {path for path in every if path.startswith(parts)}


FROZEN = {
    -1: (),
    0: ("conv1/", "bn1/"),
    1: ("conv1/", "bn1/", "layer1_"),
    2: ("conv1/", "bn1/", "layer1_", "layer2_"),
    3: ("conv1/", "bn1/", "layer"),
}


@pytest.mark.parametrize("frozen_stages", FROZEN)
def test_frozen_stages(frozen_stages):
    model = randomise(ResNeXt(**SMALL, frozen_stages=frozen_stages))
    weights, statistics = changed(model)
    frozen = FROZEN[frozen_stages]
    assert weights == paths(model, "") - (paths(model, *frozen) if frozen else set())
    every = paths(model, "", statistics=True)
    assert statistics == every - (paths(model, *frozen, statistics=True) if frozen else set())


def test_frozen_deep_stem():
    model = randomise(ResNeXt(**SMALL, deep_stem=True, frozen_stages=0))
    weights, statistics = changed(model)
    assert weights == paths(model, "") - paths(model, "stem_")
    assert statistics == paths(model, "", statistics=True) - paths(model, "stem_", statistics=True)


def test_norm_eval_keeps_statistics_and_trains_gamma_and_beta():
    model = randomise(ResNeXt(**SMALL, norm_eval=True))
    weights, statistics = changed(model)
    assert statistics == set()
    assert weights == paths(model, "")


def test_requires_grad_false_keeps_gamma_and_beta_alone():
    model = randomise(ResNeXt(**SMALL, norm_cfg={"type": "BN", "requires_grad": False}))
    weights, statistics = changed(model)
    assert weights == {p for p in paths(model, "") if p.endswith(("kernel", "bias"))}
    assert statistics == paths(model, "", statistics=True)


@pytest.mark.parametrize(
    "options", [{}, {"se_ratio": 4, "avg_down": True}, {"norm_cfg": {"type": "GN", "num_groups": 2}}]
)
def test_checkpointing_trains_the_same(options):
    """Equal losses, weights and statistics after several steps mean equal gradients."""
    models = [ResNeXt(**SMALL, **options, with_cp=with_cp) for with_cp in (False, True)]
    randomise(models[0])
    models[1].set_weights(models[0].get_weights())
    losses = [train(model) for model in models]  # rounding grows tenfold with each step more
    assert relative_error(losses[1], losses[0]) < 1e-5
    for plain, checkpointed in zip(*(m.variables for m in models), strict=True):
        assert relative_error(ops.convert_to_numpy(checkpointed), ops.convert_to_numpy(plain)) < 1e-4, plain.path


def test_checkpointing_draws_drop_path_once():
    """Recomputing with other random numbers would give gradients of another network: training would not match."""
    models = []
    for with_cp in (False, True):
        keras.utils.set_random_seed(3)
        models.append(ResNeXt(**SMALL, drop_path_rate=0.5, with_cp=with_cp))
    models[1].set_weights(randomise(models[0]).get_weights())
    assert relative_error(*[train(model, steps=3) for model in models]) < 1e-5


def test_drop_path_needs_no_seed_to_infer():
    model = randomise(ResNeXt(**SMALL, drop_path_rate=0.5))
    x, _ = batch()
    assert np.array_equal(model.predict(x, verbose=0), model.predict(x, verbose=0))


def test_frozen_stages_do_not_drop_paths():
    model = randomise(ResNeXt(**SMALL, frozen_stages=3, drop_path_rate=0.5))
    x, _ = batch()
    expected = model(x, training=False)
    assert np.array_equal(ops.convert_to_numpy(model(x, training=True)), ops.convert_to_numpy(expected))


def test_checkpointing_on_top_of_other_layers():
    inputs = keras.Input((32, 32, 3))
    image = keras.layers.Add(name="my_add")([keras.layers.Rescaling(0.5)(inputs), inputs])
    model = ResNeXt(**{**SMALL, "input_shape": None}, input_tensor=image, with_cp=True, frozen_stages=0)
    assert np.isfinite(train(model)).all()


def convolutions_in_the_step(model):
    """How many convolutions, forward and in the gradient, the graph of a training step has."""
    import tensorflow as tf

    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(model(x, training=True))
        return tape.gradient(total, [v.value for v in model.trainable_variables])

    graph = step.get_concrete_function(tf.TensorSpec((2, 32, 32, 3))).graph
    return sum(node.type.startswith("Conv2D") for node in graph.get_operations())


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="counts operations of TensorFlow's graph")
def test_checkpointing_goes_where_the_layers_go(tmp_path):
    """Into a model on top, a clone, and a saved file; each recomputes as the model itself does."""
    keras.backend.clear_session()
    plain, base = (ResNeXt(**SMALL, include_top=False, with_cp=with_cp) for with_cp in (False, True))
    head = keras.layers.GlobalAveragePooling2D()
    base.save(tmp_path / "m.keras")
    expected = convolutions_in_the_step(base)
    assert expected > 1.2 * convolutions_in_the_step(plain)
    on_top = keras.Model(base.input, head(base.output))
    for model in (on_top, keras.models.clone_model(base), keras.saving.load_model(tmp_path / "m.keras")):
        assert convolutions_in_the_step(model) == expected
    assert [v.path for v in plain.variables] == [v.path for v in base.variables]


@pytest.mark.parametrize("policy", ["float64", "float16", "bfloat16"])
def test_pure_policies_train(policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = ResNeXt(**SMALL)
    finally:
        keras.config.set_dtype_policy("float32")
    assert np.isfinite(train(model, steps=1)).all()


MEMORY = """
import json, os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import keras, numpy as np
from keras_resnext import ResNeXt
with_cp = json.loads(sys.argv[1])
keras.utils.set_random_seed(0)
side = 64 if keras.backend.backend() == "jax" else 128  # the process's growth is a coarser measure than XLA's
stages = dict(blocks=(4, 1), num_stages=2, strides=(1, 2), dilations=(1, 1))
model = ResNeXt(26, 8, 8, **stages, classes=5, input_shape=(side, side, 3), with_cp=with_cp)
x = np.random.default_rng(0).standard_normal((32, side, side, 3)).astype("float32")
y = np.arange(32) % 5
if keras.backend.backend() == "jax":
    import jax
    model.compile(keras.optimizers.SGD(0.01), "sparse_categorical_crossentropy")
    state = [[v.value for v in vs] for vs in (model.trainable_variables, model.non_trainable_variables)]
    def loss(trainable, rest, x, y):
        scores, rest = model.stateless_call(trainable, rest, x, training=True)
        return keras.ops.mean(keras.losses.sparse_categorical_crossentropy(y, scores)), rest
    step = jax.jit(jax.value_and_grad(loss, has_aux=True)).lower(*state, x, y).compile()
    peak = step.memory_analysis().temp_size_in_bytes
    value = float(step(*state, x, y)[0][0])
else:
    def kilobytes(field):  # not ru_maxrss, which a process inherits from its parent
        return int(open("/proc/self/status").read().split(field + ":")[1].split()[0])
    model.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy")
    model.predict(x[:1], verbose=0)
    before = kilobytes("VmRSS")
    value = float(model.train_on_batch(x, y))
    model.train_on_batch(x, y)
    peak = (kilobytes("VmHWM") - before) * 1024
print(json.dumps({"peak": peak, "loss": value}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads Linux's account of a process's memory")
def test_checkpointing_saves_memory():
    """Peak memory of the compiled training step: XLA's own figure on JAX, the process's growth on TensorFlow."""

    def measure(with_cp):
        output = subprocess.run(
            [sys.executable, "-c", MEMORY, json.dumps(with_cp)],
            env={**os.environ, "KERAS_BACKEND": keras.backend.backend()},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        return json.loads(output.splitlines()[-1])

    plain, checkpointed = measure(False), measure(True)
    assert checkpointed["loss"] == pytest.approx(plain["loss"], rel=1e-4)
    assert checkpointed["peak"] < 0.8 * plain["peak"], (plain, checkpointed)
