"""Models and exports that tests share, made once."""

from pathlib import Path
from typing import Any

import keras
import pytest

from keras_resnext.export import export_saved_model
from tests.export import onnx_material, saved_model_material, tflite_material

# Exporting needs the TensorFlow backend.
collect_ignore_glob = [] if keras.backend.backend() == "tensorflow" else ["test_*.py"]


@pytest.fixture(scope="session")
def model() -> keras.Model:
    return saved_model_material.small()


@pytest.fixture(scope="session")
def exported(model: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("base") / "new" / "digits"
    return export_saved_model(model, base, labels=saved_model_material.LABELS)


@pytest.fixture(scope="session")
def signatures(exported: Path) -> Any:
    import tensorflow as tf

    return tf.saved_model.load(str(exported)).signatures


@pytest.fixture(scope="session")
def onnx_model() -> keras.Model:
    return onnx_material.small()


@pytest.fixture(scope="session")
def tflite_model() -> keras.Model:
    return tflite_material.small()


@pytest.fixture(scope="session")
def tiny() -> keras.Model:
    """For what only needs some model."""
    return tflite_material.small(
        stem="cifar", blocks=(1,), num_stages=1, strides=(2,), dilations=(1,), input_shape=(16, 16, 3)
    )
