"""Every published ResNeXt is here, computes what its source's own network does, and goes back bit for bit.

Networks that differ in depth alone are one case here; their whole depth is checked by names and shapes.
"""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from keras_resnext import ResNeXt, from_pytorch, save_pytorch_weights
from keras_resnext.network.architectures import ARCHITECTURES, identify
from keras_resnext.network.structure import Structure
from keras_resnext.weights.assign import TO_PYTORCH, model_variables, structure_of
from keras_resnext.weights.expected import expected_shapes
from keras_resnext.weights.infer import infer_from_names, shown_by_weights
from keras_resnext.weights.lookalikes import unseen_options
from keras_resnext.weights.names import canonical_names
from keras_resnext.weights.published import PUBLISHED
from tests import references
from tests.support import relative_error, without_weights
from tests.weights import reference_networks
from tests.weights.reference_networks import KINDS

# What timm calls a ResNeXt and is none here, with the reason.
EXCEPTIONS = {
    "bat_resnext26ts": "bilinear attention: blocks of fixed size, which no ResNeXt of another library has",
    "cspresnext50": "cross-stage partial connections: another way of stages, of timm's own cspnet",
}


def test_timm_has_no_resnext_that_is_not_here():
    import timm

    names = {name for name in timm.list_models() if "resnext" in name}
    assert names - ARCHITECTURES.keys() == EXCEPTIONS.keys()
    tags = {name for name in timm.list_pretrained() if "resnext" in name and name.split(".")[0] not in EXCEPTIONS}
    ours = {row.own_name for row in PUBLISHED if row.source == "timm"}
    assert ours - tags == {"resnext101_32x48d.fb_wsl_ig1b_ft_in1k"}  # timm lists its weights, and has no network
    assert tags < ours
    assert len(ours) == 50


DISTINCT = {(row.source, row.architecture): row for row in PUBLISHED}


@pytest.mark.parametrize("key", DISTINCT, ids="/".join)
def test_whole_networks_have_these_names_and_shapes(key):
    """The source's network, whole and without its numbers."""
    row, architecture = DISTINCT[key], ARCHITECTURES[key[1]]
    state = reference_networks.whole(row.source, architecture, row.classes or 1000).state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    norm = architecture.structure.norm
    found = infer_from_names(shapes, None if norm.has_statistics else norm)
    assert identify(Structure.of(**{**found.options(), **unseen_options(architecture, found)})) is architecture
    assert (found.blocks, found.classes) == (architecture.structure.blocks, row.classes or 1000)
    canonical = {name: shapes[original] for original, name in canonical_names(shapes).items()}
    assert canonical == expected_shapes(replace(architecture.structure, classes=row.classes or 1000))
    parameters = sum(tensor.numel() for name, tensor in state.items() if not re.search(r"running_|tracked", name))
    assert parameters == architecture.parameters + (found.classes - 1000) * (2048 + 1)


def shallow(row):
    """Its structure with few blocks: equal for architectures that differ in their depth alone."""
    return replace(row.structure, depth=0, blocks=(1, 2, 1, 1)[: len(row.structure.blocks)])


SHALLOW = {shallow(row): row.name for row in ARCHITECTURES.values()}


@pytest.mark.parametrize("structure", SHALLOW, ids=SHALLOW.get)
def test_models_have_the_expected_entries(structure):
    with without_weights():
        variables = model_variables(ResNeXt(**structure.options()))
    shapes = {name: tuple(variable.shape) for name, variable in variables.items()}
    axes = {name: TO_PYTORCH.get(len(shape), range(len(shape))) for name, shape in shapes.items()}
    assert {name: tuple(shape[axis] for axis in axes[name]) for name, shape in shapes.items()} == expected_shapes(
        structure
    )


@pytest.mark.slow
@pytest.mark.parametrize("key", KINDS, ids=lambda key: KINDS[key].name)
def test_numbers_there_and_back(key, tmp_path):
    """Logits of the source's network with random weights and statistics; its own state_dict again, to the bit."""
    row = KINDS[key]
    module = reference_networks.small(row)
    state = module.state_dict()
    torch.save(state, tmp_path / "there.pth")
    x = np.random.default_rng(0).standard_normal((2, 64, 64, 3)).astype("float32")
    shown = infer_from_names({name: tuple(tensor.shape) for name, tensor in state.items() if tensor.ndim})
    unseen = {name: row.options[name] for name in ("antialias", "stem_pool") if row.options.get("antialias")}
    model = from_pytorch(tmp_path / "there.pth", classifier_activation=None, **unseen)
    assert relative_error(model(x, training=False), references.logits(module, x)) < 1e-5
    structure = structure_of(model)
    assert shown_by_weights(structure, state) == shown
    different = unseen_options(row, structure).keys() - {"group_size", "width_per_group", "base_channels"}
    assert different <= {"attention_last"}, different
    save_pytorch_weights(model, tmp_path / "back.pth", layout="timm")
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())
    references.randomise(module).load_state_dict(back, strict=True)
