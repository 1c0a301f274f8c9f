"""Pictures to model inputs and scores to class names, as the published ImageNet weights expect."""

import io
import os
from functools import cache
from importlib import resources
from typing import Any

import keras
import numpy as np
from keras import ops
from PIL import Image, UnidentifiedImageError

Array = Any

# Channel means and standard deviations of ImageNet, RGB on 0..255: those of mmcls, torchvision and timm alike.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
_MEAN, _STD = np.asarray(MEAN, "float32"), np.asarray(STD, "float32")


def preprocess_input(images: Array) -> Array:
    """Normalises RGB pictures on 0..255: subtracts `MEAN` and divides by `STD` per channel.

    Args:
        images: (…, height, width, 3), a NumPy array of any number type, a backend tensor or a Keras tensor.

    Returns:
        The same shape in float32 (or the float type of `images`); NumPy for NumPy. `images` is not changed.

    Raises:
        ValueError: the last axis does not hold 3 channels.
    """
    if not hasattr(images, "shape"):
        images = np.asarray(images)
    if not len(images.shape) or images.shape[-1] != len(MEAN):
        raise ValueError(f"images must have 3 channels in the last axis; got shape {tuple(images.shape)}")
    if isinstance(images, np.ndarray):
        dtype = images.dtype if np.issubdtype(images.dtype, np.floating) else np.float32
        return ((images.astype("float32") - _MEAN) / _STD).astype(dtype)
    dtype = keras.backend.standardize_dtype(images.dtype)
    images = ops.cast(images, "float32")
    normalised = (images - _MEAN) / _STD
    return ops.cast(normalised, dtype) if "float" in dtype else normalised


@cache
def _imagenet_classes() -> list[tuple[str, str]]:
    text = resources.files(__package__).joinpath("data/imagenet_classes.tsv").read_text(encoding="utf-8")
    return [(line.split("\t")[0], line.split("\t")[1]) for line in text.splitlines()]


def imagenet_labels() -> list[str]:
    """The 1000 ImageNet class names in the order of the published weights' outputs."""
    return [name for _, name in _imagenet_classes()]


def decode_predictions(predictions: Array, top: int = 5) -> list[list[tuple[str, str, float]]]:
    """The best ImageNet classes of each row, as `keras.applications` gives them.

    Args:
        predictions: (batch, 1000) scores or logits.
        top: how many classes a row, 1 to 1000.

    Returns:
        One list a row of (WordNet id, class name, score), best first.

    Raises:
        ValueError: another shape, or `top` out of range.
    """
    scores = ops.convert_to_numpy(predictions)
    if scores.ndim != 2 or scores.shape[1] != 1000:
        raise ValueError(f"predictions must have shape (batch, 1000), the ImageNet classes; got {scores.shape}")
    if not isinstance(top, int) or not 1 <= top <= 1000:
        raise ValueError(f"top={top!r} must lie in 1..1000")
    classes = _imagenet_classes()
    return [
        [(*classes[i], float(row[i])) for i in np.argsort(-row, kind="stable")[:top]]
        for row in scores.astype("float32")
    ]


def load_image(
    source: str | os.PathLike[str] | bytes,
    size: int | tuple[int, int] = 224,
    *,
    resize: int | None = None,
    interpolation: Image.Resampling = Image.Resampling.BILINEAR,
) -> np.ndarray:
    """Reads a picture and brings it to `size` as torchvision evaluates: shorter side to `resize`, centre crop.

    Args:
        source: path or bytes of a picture in any format that Pillow reads; animations give their first frame.
        size: height and width of the result in pixels.
        resize: the shorter side before cropping; default `size / 0.875`, and `size` itself below 64 pixels.
        interpolation: Pillow's filter; it antialiases.

    Returns:
        uint8 array (height, width, 3), RGB.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no picture, a broken one, or one so large that Pillow takes it for a decompression bomb.
    """
    height, width = (size, size) if isinstance(size, int) else size
    name = "bytes" if isinstance(source, bytes) else repr(os.fspath(source))
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as picture:
            rgb = picture.convert("RGB")
    except FileNotFoundError:
        raise FileNotFoundError(f"image={name}: there is no such file") from None
    except IsADirectoryError:
        raise ValueError(f"image={name} is a folder, not a picture") from None
    except UnidentifiedImageError:
        raise ValueError(f"image={name} is no picture that Pillow knows") from None
    except Image.DecompressionBombError as error:
        raise ValueError(f"image={name} is too large: {error}") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # what Pillow's decoders raise on broken data
        raise ValueError(f"image={name} is broken: {error}") from None
    rgb = resize_shorter_side(rgb, resize or default_resize(min(height, width)), interpolation)
    if rgb.height < height or rgb.width < width:
        raise ValueError(f"size={size!r} is larger than the picture after resizing, {rgb.height}x{rgb.width}")
    # torchvision's CenterCrop rounds half to even; so does Python.
    top, left = round((rgb.height - height) / 2.0), round((rgb.width - width) / 2.0)
    return np.asarray(rgb.crop((left, top, left + width, top + height)))


def default_resize(size: int) -> int:
    """Shorter side before the crop: 256 for 224, the customary 7/8; small pictures such as CIFAR's are not cropped."""
    return round(size / 0.875) if size >= 64 else size


def resize_shorter_side(picture: Image.Image, side: int, interpolation: Image.Resampling) -> Image.Image:
    """Resizes so that the shorter side is `side` pixels; the longer one is cut to whole pixels, as torchvision does."""
    short, long = sorted(picture.size)
    scaled = int(side * long / short)
    wide = picture.width >= picture.height
    return picture.resize((scaled, side) if wide else (side, scaled), interpolation)
