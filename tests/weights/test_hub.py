"""Models on Hugging Face's hub, asked of a real server on loopback, and folders that timm loads."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from huggingface_hub import constants

from keras_resnext import (
    Preprocessing,
    ResNeXt,
    create,
    from_pretrained,
    from_pytorch,
    get_preprocessing,
    save_pytorch_weights,
    set_preprocessing,
)
from keras_resnext.classifier import open_classifier
from keras_resnext.conversion import convert
from keras_resnext.loading import describe_model, load_model
from keras_resnext.weights.assign import state_dict, structure_of
from keras_resnext.weights.info import describe_file
from tests import references  # noqa: F401  declares what torchvision needs to import
from tests.hub_server import COMMIT, TOKEN, serve_hub
from tests.support import randomise, relative_error

TINY = dict(blocks=(1, 2, 1, 1), groups=4, width_per_group=4, base_channels=16, classes=3)
LABELS = ["cat", "dog", "cow"]
PREPARED = Preprocessing(64, 72, "bicubic", mean=(127.5, 127.5, 127.5), std=(51.0, 51.0, 51.0))
KINDS = {
    "plain": dict(),
    "seresnext50d, dilated": dict(se_ratio=16, deep_stem=True, stem_channels=32, avg_down=True, output_stride=16),
    "eca, tiered": dict(attention="eca", deep_stem=True, tiered_stem=True, stem_channels=32),
}


def tiny(**options):
    model = randomise(ResNeXt(**{**TINY, "input_shape": (64, 64, 3), "classifier_activation": None, **options}))
    set_preprocessing(model, PREPARED)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("hub") / "tiny"
    save_pytorch_weights(tiny(), path, layout="timm", labels=LABELS)
    return path


@pytest.fixture
def hub(folder, tmp_path, monkeypatch):
    with serve_hub() as server:
        server.add("me/tiny", folder, revisions=("main", "v1", COMMIT))
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield server


def same(one, other):
    arrays, others = state_dict(one), state_dict(other)
    return arrays.keys() == others.keys() and all(np.array_equal(arrays[name], others[name]) for name in arrays)


@pytest.mark.parametrize("kind", KINDS)
def test_timm_loads_what_is_written(kind, tmp_path):
    import timm

    model = tiny(**KINDS[kind])
    save_pytorch_weights(model, tmp_path / "m", layout="timm", labels=LABELS)
    network = timm.create_model(f"local-dir:{tmp_path / 'm'}", pretrained=True).eval()
    x = np.random.default_rng(0).standard_normal((2, 64, 64, 3)).astype("float32")
    with torch.no_grad():
        wanted = network(torch.from_numpy(x.transpose(0, 3, 1, 2))).numpy()
    assert relative_error(model(x, training=False), wanted) < 1e-5
    cfg = timm.data.resolve_model_data_config(network)
    assert int(cfg["input_size"][1] / cfg["crop_pct"]) == 72
    assert cfg["interpolation"] == "bicubic"
    assert cfg["mean"] == pytest.approx((0.5, 0.5, 0.5))
    assert cfg["std"] == pytest.approx((0.2, 0.2, 0.2))
    assert network.pretrained_cfg["label_names"] == LABELS
    again = from_pytorch(tmp_path / "m", classifier_activation=None)
    assert same(again, model)
    assert structure_of(again) == structure_of(model)
    assert get_preprocessing(again) == PREPARED


def test_a_network_with_a_name_is_called_by_it(tmp_path):
    import timm

    model = create("resnext26ts", classes=3, weights=None, classifier_activation=None)
    save_pytorch_weights(randomise(model), tmp_path / "m", layout="timm")
    assert json.loads((tmp_path / "m" / "config.json").read_text())["architecture"] == "resnext26ts"
    network = timm.create_model(f"local-dir:{tmp_path / 'm'}", pretrained=True).eval()
    x = np.random.default_rng(0).standard_normal((1, 64, 64, 3)).astype("float32")
    with torch.no_grad():
        wanted = network(torch.from_numpy(x.transpose(0, 3, 1, 2))).numpy()
    again = from_pytorch(tmp_path / "m", classifier_activation=None)
    assert relative_error(again(x, training=False), wanted) < 1e-5


def test_what_timm_lacks_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="timm has no network like resnext17_4x4d with these options"):
        save_pytorch_weights(tiny(dilations=(1, 1, 2, 4)), tmp_path / "m", layout="timm")
    assert not (tmp_path / "m").exists()


def test_everywhere_that_a_model_is_named(hub, folder, tmp_path, monkeypatch):
    name, model = "hf://me/tiny", from_pytorch(folder)
    assert same(from_pytorch(name), model)
    assert same(from_pretrained(f"{name}@v1"), model)
    assert same(ResNeXt(**TINY, weights=name, input_shape=(64, 64, 3)), model)
    assert get_preprocessing(load_model(name)) == PREPARED
    assert describe_file(name).problem == ""
    assert describe_file(name).classes == 3
    assert describe_model(name) == {"source": name}
    classifier = open_classifier(name)
    assert (classifier.labels, classifier.size, classifier.name) == (tuple(LABELS), (64, 64), name)
    convert(name, tmp_path / "again", layout="timm")
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert json.loads((tmp_path / "again" / "config.json").read_text())["label_names"] == LABELS
    files = {path.rsplit("/", 1)[1] for path in hub.asked if path.startswith("/me/")}
    assert files == {"config.json", "model.safetensors"}
    hub.repositories.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert same(load_model(name), model)
    with pytest.raises(OSError, match="HF_HUB_OFFLINE is set; unset it"):
        load_model("hf://me/other")


def test_pickles_only_where_nothing_else_is(hub, folder, tmp_path):
    """The pickle is our own, read by the reader that executes nothing."""
    model = from_pytorch(folder)
    save_pytorch_weights(model, tmp_path / "weights.pth", layout="timm")
    pickle = (tmp_path / "weights.pth").read_bytes()
    both = hub.add("me/both", folder)
    both.files |= {"pytorch_model.bin": pickle}
    odd = hub.add("me/odd", folder)
    odd.files |= {"pytorch_model.bin": pickle, "tiny.safetensors": odd.files.pop("model.safetensors")}
    old = hub.add("me/old", folder, but=("model.safetensors",))
    old.files["pytorch_model.bin"] = pickle
    for name in ("me/both", "me/odd"):
        assert same(from_pytorch(f"hf://{name}"), model)
    assert not [path for path in hub.asked if path.endswith("pytorch_model.bin")]
    assert same(from_pytorch("hf://me/old"), model)


def test_the_token_opens_gated_models(hub, folder, monkeypatch):
    hub.add("me/gated", folder, gated=True)
    with pytest.raises(OSError, match=r"hf://me/gated is gated: accept its conditions at .*/me/gated, then log in"):
        from_pytorch("hf://me/gated")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert from_pytorch("hf://me/gated").output_shape == (None, 3)


def _foreign(files):
    files["config.json"] = files["config.json"].replace(b'"resnext50_32x4d"', b'"vit_base_patch16_224"')


def _another(files):
    config = json.loads(files["config.json"])
    del config["model_args"]
    files["config.json"] = json.dumps({**config, "architecture": "seresnext50_32x4d"}).encode()


def _odd(files):
    config = json.loads(files["config.json"])
    config["model_args"]["act_layer"] = "gelu"
    files["config.json"] = json.dumps(config).encode()


ERRORS = {
    "hf://me": (ValueError, "must be hf://OWNER/NAME or hf://OWNER/NAME@REVISION"),
    "hf-hub:me/tiny": (ValueError, "must be hf://OWNER/NAME"),
    "hf://me/none": (FileNotFoundError, "there is no such model at http.*; if it is private, log in with `hf auth"),
    "hf://me/tiny@v2": (ValueError, "no branch, tag or commit is called 'v2'; see http"),
    "hf://me/empty": (ValueError, "holds no weights under names that are known .* but config.json; download"),
    "hf://me/foreign": (ValueError, "is of architecture 'vit_base_patch16_224', which is no ResNeXt that is known"),
    "hf://me/odd": (ValueError, r"model_args={'act_layer': 'gelu'} cannot be read"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_say_in_one_line_what_to_do(hub, folder, name):
    hub.add("me/empty", folder, but=("model.safetensors",))
    for name_, change in (("me/foreign", _foreign), ("me/odd", _odd)):
        change(hub.add(name_, folder).files)
    kind, words = ERRORS[name]
    with pytest.raises(kind, match=words) as caught:
        load_model(name)
    assert "\n" not in str(caught.value)
    if name == "hf://me/foreign":
        assert {path.rsplit("/", 1)[1] for path in hub.asked if path.startswith("/me/")} == {"config.json"}


def test_weights_count_for_more_than_the_name_of_an_architecture(hub, folder):
    _another(hub.add("me/another", folder).files)
    with pytest.warns(UserWarning, match="says seresnext50_32x4d, but the weights are those of a resnext17_4x4d"):
        assert same(from_pytorch("hf://me/another"), tiny())


def test_the_environment_of_its_users_counts(hub, tmp_path):
    environment = {**os.environ, "HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "keras_resnext", "info", "hf://me/tiny"]
    told = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert told.returncode == 0, told.stderr
    assert "ResNeXt-17" in told.stdout
    assert (tmp_path / "home" / "hub" / "models--me--tiny").is_dir()


def test_without_the_library_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"hf://me/tiny needs huggingface_hub: pip install 'keras_resnext\[hub\]'"):
        load_model("hf://me/tiny")
