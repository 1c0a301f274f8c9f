"""What a SavedModel can be asked for: pixels, the bytes of images, features, or tf.Examples."""

from collections.abc import Callable
from typing import Any

from .image_decoding import decode_image
from .prepared_model import PreparedModel

Tensor = Any
Signatures = dict[str, Callable[..., dict[str, Tensor]]]

TOP = 5


def make_signatures(prepared: PreparedModel) -> Signatures:
    """The functions of `export_saved_model`'s docstring, by name."""
    import tensorflow as tf

    network, size, names, main = prepared.network, prepared.size, prepared.labels, prepared.output
    how = prepared.preprocessing

    # One function that all signatures share, so that its constants are in the file once.
    @tf.function(input_signature=[tf.TensorSpec((None, *size, 3), tf.float32)])  # type: ignore[untyped-decorator]
    def run(images: Tensor) -> dict[str, Tensor]:
        # The session checks no shapes: without this, three axes instead of four end the whole server.
        images = tf.ensure_shape(images, (None, *size, 3))
        with tf.control_dependencies([tf.debugging.assert_positive(tf.shape(images)[0], "the batch is empty")]):
            images = tf.identity(images)
        outputs: dict[str, Tensor] = network(images, training=False)  # not under the condition: constants must be free
        return outputs

    def decode(image_bytes: Tensor) -> Tensor:
        return tf.map_fn(
            lambda data: decode_image(data, size, prepared.resize, how.interpolation, how.exif),
            image_bytes,
            fn_output_signature=tf.TensorSpec((*size, 3), tf.float32),
        )

    def best(scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        top_scores, top_classes = tf.math.top_k(scores, min(TOP, len(names)))
        return top_scores, top_classes, tf.gather(tf.constant(list(names)), top_classes)

    def serving_default(images: Tensor) -> dict[str, Tensor]:
        return {main: run(images)[main]}

    def serving_bytes(image_bytes: Tensor) -> dict[str, Tensor]:
        scores = run(decode(image_bytes))[main]
        if not names:
            return {main: scores}
        return {main: scores, **dict(zip(("top_scores", "top_classes", "top_labels"), best(scores), strict=True))}

    def features(images: Tensor) -> dict[str, Tensor]:
        return {"features": run(images)["features"]}

    def classify(inputs: Tensor) -> dict[str, Tensor]:
        examples = tf.io.parse_example(inputs, {"image/encoded": tf.io.FixedLenFeature((), tf.string)})
        scores, _, classes = best(run(decode(examples["image/encoded"]))[main])
        return {"classes": classes, "scores": scores}

    pixels = tf.TensorSpec((None, *size, 3), tf.float32, "images")
    texts = {name: tf.TensorSpec((None,), tf.string, name) for name in ("image_bytes", "inputs")}
    signatures = {
        "serving_default": tf.function(serving_default, input_signature=[pixels]),
        "serving_bytes": tf.function(serving_bytes, input_signature=[texts["image_bytes"]]),
    }
    if "features" in network.output:
        signatures["features"] = tf.function(features, input_signature=[pixels])
    if names:
        signatures["classify"] = tf.function(classify, input_signature=[texts["inputs"]])
    return signatures
