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

from .layers import InputPreprocessing
from .published import Preprocessing

Array = Any

MAX_RESIZED = 1 << 24  # pixels; a picture 1 pixel wide and 70,000 high would grow to 4.6 billion

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def get_preprocessing(model: keras.Model) -> Preprocessing:
    """How `model` wants its pictures prepared: as came with its weights, else as is usual for ImageNet."""
    layer = _find_record(model)
    return layer.preprocessing if layer else Preprocessing()


def set_preprocessing(model: keras.Model, preprocessing: Preprocessing) -> None:
    """Has `model` remember how its pictures are prepared; saved files, clones, prediction and exports follow.

    Raises:
        ValueError: `preprocessing` is no `Preprocessing`, or the model was not built by `ResNeXt` on RGB pictures.
    """
    if not isinstance(preprocessing, Preprocessing):
        raise ValueError(f"preprocessing={preprocessing!r} must be a Preprocessing")
    layer = _find_record(model)
    if layer is None:
        raise ValueError(
            f"model={model.name!r} must be built by ResNeXt on three channels to remember its preprocessing"
        )
    layer.preprocessing = preprocessing


def _find_record(model: keras.Model) -> InputPreprocessing | None:
    for layer in model.layers:
        found = _find_record(layer) if isinstance(layer, keras.Model) else layer
        if isinstance(found, InputPreprocessing):
            return found
    return None


def preprocess_input(images: Array, preprocessing: Preprocessing | None = None) -> Array:
    """Normalises RGB pictures on 0..255: subtracts the mean and divides by the standard deviation per channel.

    Args:
        images: (…, height, width, 3), a NumPy array of any number type, a backend tensor or a Keras tensor.
        preprocessing: whose mean and deviation to use; default ImageNet's, as all published ResNeXt do.

    Returns:
        The same shape in float32 (or the float type of `images`); NumPy for NumPy. `images` is not changed.

    Raises:
        ValueError: the last axis does not hold 3 channels.
    """
    if not hasattr(images, "shape"):
        images = np.asarray(images)
    if not len(images.shape) or images.shape[-1] != 3:
        raise ValueError(f"images must have 3 channels in the last axis; got shape {tuple(images.shape)}")
    preprocessing = preprocessing or Preprocessing()
    mean, std = np.asarray(preprocessing.mean, "float32"), np.asarray(preprocessing.std, "float32")
    if isinstance(images, np.ndarray):
        dtype = images.dtype if np.issubdtype(images.dtype, np.floating) else np.float32
        return ((images.astype("float32") - mean) / std).astype(dtype)
    dtype = keras.backend.standardize_dtype(images.dtype)
    images = ops.cast(images, "float32")
    normalised = (images - mean) / std
    return ops.cast(normalised, dtype) if "float" in dtype else normalised


@cache
def _imagenet_classes() -> list[tuple[str, str]]:
    text = resources.files(__package__).joinpath("assets/imagenet_classes.tsv").read_text(encoding="utf-8")
    return [(line.split("\t")[0], line.split("\t")[1]) for line in text.splitlines()]


def imagenet_labels() -> list[str]:
    """The 1000 ImageNet class names in the order of the published weights' outputs."""
    return [name for _, name in _imagenet_classes()]


def imagenet_ids() -> list[str]:
    """The WordNet ids of the 1000 ImageNet classes, such as n01440764, in the same order."""
    return [wordnet_id for wordnet_id, _ in _imagenet_classes()]


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


def to_rgb(picture: Image.Image) -> Image.Image:
    """Any picture that Pillow has opened, in RGB of 8 bits; transparency is left out.

    Pillow itself cuts grey values of 16 bits off at 255: here 65535 becomes 255.

    Raises:
        ValueError: values of 32 bits, whose range nobody knows.
    """
    # "I" is of 32 bits, but PGM files of 16 are opened as it, and by Pillow before 11 PNG files.
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format in ("PNG", "PPM")):
        values = np.asarray(picture).astype("int64")
        picture = Image.fromarray(((values + 128) // 257).astype("uint8"))
    check_depth(picture)
    return picture.convert("RGB")


def check_depth(picture: Image.Image) -> None:
    """Raises ValueError where `to_rgb` would."""
    if picture.mode == "F" or (picture.mode == "I" and picture.format not in ("PNG", "PPM")):
        raise ValueError(f"its values have 32 bits (Pillow's mode {picture.mode}); 8 or 16 bits are expected")


def load_image(
    source: str | os.PathLike[str] | bytes,
    size: int | tuple[int, int] = 224,
    *,
    resize: int | None = None,
    interpolation: str = "bilinear",
) -> np.ndarray:
    """Reads a picture and brings it to `size` as torchvision evaluates: shorter side to `resize`, centre crop.

    Args:
        source: path or bytes of a picture in any format that Pillow reads; animations give their first frame.
        size: height and width of the result in pixels.
        resize: the shorter side before cropping; default `size / 0.875`, and `size` itself below 64 pixels.
        interpolation: "bilinear" or "bicubic", Pillow's, antialiased.

    Returns:
        uint8 array (height, width, 3), RGB.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no picture, a broken one, one so large that Pillow takes it for a decompression bomb, or one so
            narrow that it would become such when resized.
    """
    height, width = (size, size) if isinstance(size, int) else size
    name = "bytes" if isinstance(source, bytes) else repr(os.fspath(source))
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as picture:
            rgb = to_rgb(picture)
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
    resize = resize or Preprocessing().resize_for(min(height, width))
    if (largest := resize**2 * max(rgb.size) // min(rgb.size)) > MAX_RESIZED:
        raise ValueError(f"image={name} is too narrow: resized it would have {largest} pixels, more than {MAX_RESIZED}")
    rgb = resize_shorter_side(rgb, resize, FILTERS[interpolation])
    if rgb.height < height or rgb.width < width:
        raise ValueError(f"size={size!r} is larger than the picture after resizing, {rgb.height}x{rgb.width}")
    # torchvision's CenterCrop rounds half to even; so does Python.
    top, left = round((rgb.height - height) / 2.0), round((rgb.width - width) / 2.0)
    return np.asarray(rgb.crop((left, top, left + width, top + height)))


def resize_shorter_side(picture: Image.Image, side: int, interpolation: Image.Resampling) -> Image.Image:
    """Resizes so that the shorter side is `side` pixels; the longer one is cut to whole pixels, as torchvision does."""
    short, long = sorted(picture.size)
    scaled = int(side * long / short)
    wide = picture.width >= picture.height
    return picture.resize((scaled, side) if wide else (side, scaled), interpolation)
