"""A training step on the CPU: forward, backward and SGD with momentum in float32, on the same images each time."""

from collections.abc import Callable
from typing import Any

import numpy as np

from .torch_models import torchvision_model
from .work import Work

RATE, MOMENTUM = 0.01, 0.9


def make_images(work: Work) -> tuple[np.ndarray, np.ndarray]:
    """Normalised images (batch, size, size, 3) float32 and labels (batch,) of 1000 classes."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((work.batch, work.size, work.size, 3), dtype=np.float32)
    return images, rng.integers(0, 1000, work.batch)


def build(work: Work) -> Any:
    """The model of `work`, with the lowering that it asks for."""
    import keras_resnext

    from ..network import lowerings
    from ..network.layers import GroupedConv2D

    if work.width:
        lowerings.MERGED_WIDTH = lowerings.NARROW_MERGED_WIDTH = work.width
    model = keras_resnext.create(work.architecture, input_shape=(work.size, work.size, 3))
    for layer in model.layers:
        if isinstance(layer, GroupedConv2D):
            layer.lowering = work.lowering
    return model


def ours(work: Work) -> Callable[[], object]:
    """Plain `compile` with default arguments, then `train_on_batch`."""
    return _steps(build(work), work)


def stock_keras(work: Work) -> Callable[[], object]:
    """The same network of Keras's own convolutions."""
    import keras

    from keras_resnext.network.layers import GroupedConv2D

    def plain(layer: Any) -> Any:
        if not isinstance(layer, GroupedConv2D):
            return type(layer).from_config(layer.get_config())
        config = layer.get_config()
        config.pop("lowering")
        return keras.layers.Conv2D.from_config(config)

    return _steps(keras.models.clone_model(build(work), clone_function=plain), work)


def _steps(model: Any, work: Work) -> Callable[[], object]:
    import keras

    model.compile(keras.optimizers.SGD(RATE, MOMENTUM), "sparse_categorical_crossentropy")
    images, labels = make_images(work)

    def step() -> None:
        model.train_on_batch(images, labels)

    return step


def pytorch(work: Work) -> Callable[[], object]:
    """As most write it."""
    import torch

    return _torch_steps(work, torch.contiguous_format)


def channels_last(work: Work) -> Callable[[], object]:
    import torch

    return _torch_steps(work, torch.channels_last)


def _torch_steps(work: Work, layout: Any) -> Callable[[], object]:
    import torch

    torch.set_num_threads(work.threads)
    model = torchvision_model(work.architecture).train().to(memory_format=layout)
    optimiser = torch.optim.SGD(model.parameters(), RATE, MOMENTUM)
    given, targets = make_images(work)
    images = torch.tensor(given).permute(0, 3, 1, 2).contiguous(memory_format=layout)
    labels = torch.tensor(targets)

    def step() -> None:
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimiser.step()

    return step
