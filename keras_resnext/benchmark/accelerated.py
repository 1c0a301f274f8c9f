"""Training and inference compiled as a whole: this package on JAX, torchvision's network by torch.compile.

On the GPU where there is one. Both keep their images on the device and wait for the result.
"""

from collections.abc import Callable
from typing import Any

from .torch_models import torchvision_model
from .training_steps import MOMENTUM, RATE, build, make_images
from .work import Work

POLICIES = {"float32": "float32", "tf32": "float32", "bfloat16": "mixed_bfloat16"}


def _prepare_jax(work: Work) -> Any:
    import jax
    import keras

    jax.config.update("jax_default_matmul_precision", "highest" if work.precision == "float32" else "default")
    keras.config.set_dtype_policy(POLICIES[work.precision])
    return build(work)


def train_jax(work: Work) -> Callable[[], object]:
    """One step as `fit` compiles it: loss, gradients, SGD with momentum; weights and momenta are given up for new."""
    import jax
    import keras

    model = _prepare_jax(work)
    loss = keras.losses.SparseCategoricalCrossentropy()
    images, labels = map(jax.device_put, make_images(work))

    def objective(weights: Any, state: Any) -> Any:
        scores, state = model.stateless_call(weights, state, images, training=True)
        return loss(labels, scores), state

    def update(weights: Any, momenta: Any, state: Any) -> Any:
        (_, state), gradients = jax.value_and_grad(objective, has_aux=True)(weights, state)
        momenta = [MOMENTUM * m - RATE * g for m, g in zip(momenta, gradients, strict=True)]
        return [w + m for w, m in zip(weights, momenta, strict=True)], momenta, state

    step = jax.jit(update, donate_argnums=(0, 1, 2))
    weights = [variable.value for variable in model.trainable_variables]
    state = [variable.value for variable in model.non_trainable_variables]
    held = [(weights, [jax.numpy.zeros_like(weight) for weight in weights], state)]

    def run() -> None:
        held[0] = jax.block_until_ready(step(*held[0]))

    return run


def infer_jax(work: Work) -> Callable[[], object]:
    import jax

    model = _prepare_jax(work)
    images = jax.device_put(make_images(work)[0])
    weights = [variable.value for variable in model.trainable_variables]
    state = [variable.value for variable in model.non_trainable_variables]
    call = jax.jit(lambda *values: model.stateless_call(*values, training=False)[0])
    return lambda: jax.block_until_ready(call(weights, state, images))


def _prepare_torch(work: Work) -> tuple[Any, Any, Any, Any]:
    import torch

    gpu = torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    torch.set_float32_matmul_precision("highest" if work.precision == "float32" else "high")
    torch.backends.cudnn.allow_tf32 = work.precision != "float32"
    torch.backends.cudnn.benchmark = True
    if not gpu:
        torch.set_num_threads(work.threads)
    model = torchvision_model(work.architecture).to(device, memory_format=torch.channels_last)
    given, targets = make_images(work)
    images = torch.tensor(given).permute(0, 3, 1, 2).to(device, memory_format=torch.channels_last)
    cast = torch.autocast(device.type, torch.bfloat16, enabled=work.precision == "bfloat16")

    def finish() -> None:
        if gpu:
            torch.cuda.synchronize()

    return model, (images, torch.tensor(targets).to(device)), cast, finish


def train_torch(work: Work) -> Callable[[], object]:
    """torch.compile, channels last, autocast."""
    import torch

    model, (images, labels), cast, finish = _prepare_torch(work)
    compiled = torch.compile(model.train())
    optimiser = torch.optim.SGD(model.parameters(), RATE, MOMENTUM)

    def run() -> None:
        optimiser.zero_grad(set_to_none=True)
        with cast:
            loss = torch.nn.functional.cross_entropy(compiled(images), labels)
        loss.backward()
        optimiser.step()
        finish()

    return run


def infer_torch(work: Work) -> Callable[[], object]:
    import torch

    model, (images, _), cast, finish = _prepare_torch(work)
    import torch._inductor.config

    torch._inductor.config.freezing = True  # weights as constants, put in order once
    compiled = torch.compile(model)

    def run() -> None:
        with torch.no_grad(), cast:
            compiled(images)
        finish()

    return run
