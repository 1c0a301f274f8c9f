"""A config.json names nothing but what is harmless: nothing is imported, executed or read, whatever it says."""

import copy
import json
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import keras_resnext
from keras_resnext.loading import load_model
from keras_resnext.pytorch.checkpoint import CheckpointError
from keras_resnext.weights.keras_files import save_keras

CANARY = "canary_of_keras_configs"


def tiny() -> keras.Model:
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, name="conv1")(image)
    return keras.Model(image, keras.layers.Dense(2, name="fc")(keras.layers.GlobalAveragePooling2D()(x)))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keras") / "m.keras"
    save_keras(tiny(), path)
    return path


def rewritten(saved: Path, path: Path, change: Any) -> Path:
    """A .keras file with another config.json: `change` gets the parsed one and its layers by names."""
    with zipfile.ZipFile(saved) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(parts["config.json"])
    change(config, {layer["name"]: layer for layer in config["config"]["layers"]})
    parts["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return path


def obj(name: str, config: Any = None, module: Any = "keras.layers", **more: Any) -> dict[str, Any]:
    return {"module": module, "class_name": name, "config": {} if config is None else config, **more}


def function(name: str, module: Any = "builtins", registered: Any = None) -> dict[str, Any]:
    return {"module": module, "class_name": "function", "config": name, "registered_name": registered or name}


LAMBDA = {"class_name": "__lambda__", "config": {"value": ["4wEA", None, None]}}
VOCABULARY = {"vocabulary": "/etc/passwd"}

# What a config names, and a part of the refusal; each is put into all of `PLACES`.
ATTACKS: dict[str, tuple[dict[str, Any], str]] = {
    "CVE-2025-1550: any module": (obj("system", module="os"), "os.system"),
    "any function": (function("system", "os"), "os.system"),
    "subprocess": (obj("run", module="subprocess"), "subprocess.run"),
    "builtins": (function("exec"), "builtins.exec"),
    "builtins as a class": (obj("eval", module="builtins"), "builtins.eval"),
    "a canary": (obj("Canary", module=CANARY), f"{CANARY}.Canary"),
    "a canary's function": (function("go", CANARY), f"{CANARY}.go"),
    "inside of Keras": (obj("Canary", module=f"keras.{CANARY}"), f"keras.{CANARY}.Canary"),
    "inside of Keras's own modules": (obj("x", module="keras.src.utils.torch_utils"), "torch_utils.x"),
    "CVE-2025-9906: unsafe mode": (
        function("enable_unsafe_deserialization", "keras.config"),
        "keras.config.enable_unsafe_deserialization",
    ),
    "unsafe mode as a class": (obj("enable_unsafe_deserialization", module="keras.config"), "keras.config"),
    "unsafe mode inside": (
        function("enable_unsafe_deserialization", "keras.src.saving.serialization_lib"),
        "enable_unsafe_deserialization",
    ),
    "CVE-2025-8747: get_file": (function("get_file", "keras.utils"), "keras.utils.get_file"),
    "get_file inside": (obj("get_file", module="keras.src.utils.file_utils"), "get_file"),
    "get_file, builtins": (function("get_file"), "builtins.get_file"),
    "load_model": (function("load_model", "keras.saving"), "keras.saving.load_model"),
    "load_model in models": (function("load_model", "keras.models"), "keras.models.load_model"),
    "load_img": (function("load_img", "keras.utils"), "load_img"),
    "data sets": (function("image_dataset_from_directory", "keras.utils"), "image_dataset_from_directory"),
    "CVE-2025-12058: StringLookup": (obj("StringLookup", VOCABULARY), "keras.layers.StringLookup"),
    "an address": (obj("StringLookup", {"vocabulary": "http://127.0.0.1:1/v"}), "StringLookup"),
    "IntegerLookup": (obj("IntegerLookup", VOCABULARY), "IntegerLookup"),
    "TextVectorization": (obj("TextVectorization", VOCABULARY), "TextVectorization"),
    "IndexLookup": (obj("IndexLookup", VOCABULARY, "keras.src.layers.preprocessing.index_lookup"), "IndexLookup"),
    "Lambda": (obj("Lambda", {"function": LAMBDA}), "keras.layers.Lambda"),
    "Lambda of a name": (obj("Lambda", {"function": function("system", "os")}), "Lambda"),
    "CVE-2025-9905: Lambda without a module": (obj("Lambda", {"function": "x"}, None), "Lambda"),
    "Lambda inside": (obj("Lambda", module="keras.src.layers.core.lambda_layer"), "Lambda"),
    "Lambda as ours": (
        obj("Lambda", registered_name="keras_resnext>BatchNorm"),
        "keras.layers.Lambda",
    ),
    "__lambda__": (LAMBDA, "__lambda__"),
    "__typespec__": (
        {"class_name": "__typespec__", "spec_name": "TensorSpec", "module": "tensorflow", "config": []},
        "__typespec__",
    ),
    "TFSMLayer": (obj("TFSMLayer", {"filepath": "/tmp/x"}), "TFSMLayer"),
    "TorchModuleWrapper": (obj("TorchModuleWrapper", {"module": "gAJ9Lg=="}), "TorchModuleWrapper"),
    "TorchModuleWrapper inside": (
        obj("TorchModuleWrapper", module="keras.src.utils.torch_utils"),
        "TorchModuleWrapper",
    ),
    "JaxLayer": (obj("JaxLayer"), "JaxLayer"),
    "FlaxLayer": (obj("FlaxLayer"), "FlaxLayer"),
    "Layer": (obj("Layer"), "keras.layers.Layer"),
    "Wrapper": (obj("Wrapper"), "keras.layers.Wrapper"),
    "sound": (obj("MelSpectrogram"), "MelSpectrogram"),
    "loops": (obj("WhileLoop", module="keras.src.ops.core"), "WhileLoop"),
    "maps": (obj("Map", module="keras.src.ops.core"), "Map"),
    "FeatureSpace": (obj("FeatureSpace", module="keras.utils"), "FeatureSpace"),
    "hub": (obj("Tokenizer", module="keras_hub.tokenizers"), "keras_hub.tokenizers.Tokenizer"),
    "a class nobody registered": (obj("Mine", module="mine", registered_name="mine>Mine"), "mine.Mine"),
    "no module": (obj("Mine", module=None), "Mine"),
    "dots in the name": (obj("utils.get_file", module="keras"), "keras.utils.get_file"),
    "a path": (obj("../layers.Lambda", module="keras.layers"), "Lambda"),
    "an operation's module": (obj("np.load", module="keras.src.ops.numpy"), "np.load"),
    "names that are lists": (obj(["os"], module=["system"]), "no texts"),  # type: ignore[arg-type]
    "a dtype that multiplies": (
        {"class_name": "__numpy__", "config": {"value": 0, "dtype": "1000000000f8"}},
        "1000000000f8",
    ),
}


def as_layer(config: dict[str, Any], layers: dict[str, Any], attack: Any) -> None:
    layers["conv1"].update(attack)


def in_layer(config: dict[str, Any], layers: dict[str, Any], attack: Any) -> None:
    layers["conv1"]["config"]["kernel_initializer"] = attack


PLACES = {
    "layer": as_layer,
    "initializer": in_layer,
    "activation": lambda config, layers, attack: layers["fc"]["config"].update(activation=attack),
    "wrapper": lambda config, layers, attack: layers["conv1"].update(obj("TimeDistributed", {"layer": attack})),
    "arguments": lambda config, layers, attack: layers["fc"]["inbound_nodes"][0]["kwargs"].update(x=attack),
    "build": lambda config, layers, attack: config["build_config"].update(x=[[attack]]),
    "whole": lambda config, layers, attack: config.update(attack),
    "model": lambda config, layers, attack: layers["conv1"].update(
        obj("Sequential", {"name": "s", "layers": [obj("Flatten", {}), attack]}, "keras")
    ),
}


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module whose import leaves a file."""
    mark = tmp_path / "imported"
    (tmp_path / f"{CANARY}.py").write_text(f"open({str(mark)!r}, 'w')\ndef go(*args): pass\nclass Canary: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    return mark


@pytest.mark.parametrize("attack", ATTACKS)
def test_names_that_are_not_allowed(attack: str, saved: Path, tmp_path: Path, canary: Path) -> None:
    """In every place of a config; the refusal comes before Keras sees any of it, so it costs no time."""
    named, shown = ATTACKS[attack]
    before = {"encodings.cp437", *sys.modules}  # of the test's own zip files
    for place, put in PLACES.items():
        path = rewritten(saved, tmp_path / f"{place}.keras", lambda *parts, put=put: put(*parts, copy.deepcopy(named)))
        with pytest.raises(CheckpointError, match=rf"{place}\.keras: no readable Keras file: ") as refusal:
            load_model(path)
        assert shown in str(refusal.value)
    assert set(sys.modules) <= before
    assert not canary.exists()


def test_what_training_needs_is_not_looked_at(saved: Path, tmp_path: Path, canary: Path) -> None:
    def change(config: dict[str, Any], layers: dict[str, Any]) -> None:
        config["compile_config"] = {"optimizer": obj("Canary", module=CANARY), "loss": LAMBDA}

    model = load_model(rewritten(saved, tmp_path / "m.keras", change))
    assert not model.compiled
    assert not canary.exists()


SIZES = {
    "Dense": lambda layers: layers["fc"]["config"].update(units=2**31),
    "Dense within what numbers may be": lambda layers: layers["fc"]["config"].update(units=2**16),
    "kernel": lambda layers: layers["conv1"]["config"].update(kernel_size=[8, 8], filters=60_000),
    "Normalization": lambda layers: layers["conv1"].update(
        obj("Normalization", {"name": "conv1", "axis": [1, 2, 3], "mean": 0.0, "variance": 1.0})
    ),
    "unrolled": lambda layers: layers["fc"].update(obj("LSTM", {"name": "fc", "units": 2, "unroll": True})),
    "a long Sequential": lambda layers: layers["fc"].update(
        obj("Sequential", {"name": "fc", "layers": [obj("ReLU")] * 300}, "keras")
    ),
    "CVE-2026-0897, in the config": lambda layers: layers["conv1"]["config"].update(filters=2**40),
}


@pytest.mark.parametrize("case", SIZES)
def test_sizes_that_the_weights_do_not_have(case: str, saved: Path, tmp_path: Path) -> None:
    def change(config: dict[str, Any], layers: dict[str, Any]) -> None:
        SIZES[case](layers)
        for name in ("conv1", "fc"):
            layers[name].pop("build_config")  # contradicts what comes before
        if case == "Normalization":
            layers[next(iter(layers))]["config"]["batch_shape"] = [None, 60_000, 60_000, 3]

    path = rewritten(saved, tmp_path / "m.keras", change)
    start = time.monotonic()
    with pytest.raises(CheckpointError, match=r"the weights file holds \d+|for ever to build"):
        load_model(path)
    assert time.monotonic() - start < 10
    pending = keras.src.backend.common.global_state.get_global_attribute("uninitialized_variables")
    assert not pending  # Keras would make them at the end of its next scope


def test_everybodys_own_models_load(tmp_path: Path) -> None:
    """Registered classes and functions, variables made of numbers, shared layers, models inside, trained ones."""

    @keras.saving.register_keras_serializable(package="tests")
    def twice(x: Any) -> Any:
        return 2 * x

    @keras.saving.register_keras_serializable(package="tests")
    class Offset(keras.layers.Layer):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.offset = keras.Variable(np.ones(3, "float32"), name="offset")

        def call(self, x: Any) -> Any:
            return x + self.offset

    inner = keras_resnext.ResNeXt(
        blocks=(1, 1, 1, 1), groups=2, base_channels=8, include_top=False, input_shape=(32, 32, 3)
    )
    image = keras.Input((32, 32, 3))
    x = inner(Offset()(keras.layers.Normalization(mean=0.5, variance=2.0)(keras.layers.Rescaling(1 / 255)(image))))
    dense = keras.layers.Dense(4, activation=twice, kernel_regularizer="l2")
    x = keras.layers.GlobalAveragePooling2D()(x if not isinstance(x, list | tuple) else x[-1])
    x = keras.layers.Concatenate()([dense(x), dense(x + 1), keras.ops.clip(keras.ops.split(x, 2, -1)[0], -1, 1)])
    model = keras.Model(image, keras.layers.RandomFlip(seed=2**31)(keras.layers.Reshape((1, 1, -1))(x)))
    model.compile(keras.optimizers.AdamW(use_ema=True), "mse")
    model.save(tmp_path / "m.keras")
    found = load_model(tmp_path / "m.keras")
    images = np.random.default_rng(0).random((1, 32, 32, 3), "float32")
    np.testing.assert_array_equal(found(images, training=False), model(images, training=False))
    assert [weight.path for weight in found.weights] == [weight.path for weight in model.weights]
