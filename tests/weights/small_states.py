"""A small ResNeXt's state_dict under torchvision's names, without a framework."""

import numpy as np

GROUPS, WIDTH, BASE, CLASSES = 4, 4, 16, 5


def make_state(seed):
    """One block in each of four stages, random weights and statistics."""
    rng = np.random.default_rng(seed)
    state = {}

    def convolution(name, *shape):
        state[f"{name}.weight"] = rng.normal(size=shape).astype("float32")

    def norm(name, channels):
        for kind in ("weight", "bias", "running_mean", "running_var"):
            state[f"{name}.{kind}"] = rng.uniform(0.5, 1.5, channels).astype("float32")

    channels = 64
    convolution("conv1", channels, 3, 7, 7)
    norm("bn1", channels)
    for stage in range(4):
        block, width, filters = f"layer{stage + 1}.0", GROUPS * WIDTH * 2**stage, BASE * 4 * 2**stage
        for i, shape in enumerate(((width, channels, 1, 1), (width, width // GROUPS, 3, 3), (filters, width, 1, 1)), 1):
            convolution(f"{block}.conv{i}", *shape)
            norm(f"{block}.bn{i}", shape[0])
        if stage or channels != filters:
            convolution(f"{block}.downsample.0", filters, channels, 1, 1)
            norm(f"{block}.downsample.1", filters)
        channels = filters
    convolution("fc", CLASSES, channels)
    state["fc.bias"] = rng.normal(size=CLASSES).astype("float32")
    return state
