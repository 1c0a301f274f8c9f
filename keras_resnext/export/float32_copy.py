"""Copies of layers and models that compute in float32, whatever their policy was."""

from typing import Any

import keras


def in_float32(layer: Any) -> Any:
    """A copy of a layer, a model or an operation, without its weights, that computes in float32."""
    if isinstance(layer, keras.Model):
        return keras.models.clone_model(layer, clone_function=in_float32)
    config = layer.get_config()
    return type(layer).from_config({**config, "dtype": "float32"} if "dtype" in config else config)


def copy_weights(source: keras.layers.Layer, target: keras.layers.Layer) -> None:
    target.set_weights(source.get_weights())
    for layer in target._flatten_layers():
        if hasattr(layer, "finalize_state"):  # preprocessing layers keep what follows from their weights beside them
            layer.finalize_state()
