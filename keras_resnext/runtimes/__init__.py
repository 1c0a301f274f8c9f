"""What runs a model: Keras, TensorFlow, LiteRT, ONNX Runtime."""

# What scores mean. single: probabilities of classes of which one is right; multi: each a probability of its own; raw:
# numbers as they are.
KINDS = ("single", "multi", "raw")


def check_kind(kind: str | None) -> None:
    """Raises ValueError unless `kind` is one of `KINDS` or None."""
    if kind not in (None, *KINDS):
        raise ValueError(f"kind={kind!r} must be one of {', '.join(KINDS)}")
