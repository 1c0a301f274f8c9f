"""What happens to an image before the network: reading, resizing, cropping and normalising. No framework is needed."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

Array = Any

# Channel means and standard deviations of ImageNet, RGB on 0..255: those of mmcls, torchvision and timm alike.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
INTERPOLATIONS = ("bilinear", "bicubic")
CHANNELS = ("RGB", "BGR")

MAX_RESIZED = 1 << 24  # pixels; an image 1 pixel wide and 70,000 high would grow to 4.6 billion

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True)
class Preprocessing:
    """How images become inputs: the shorter side to `resize` pixels, the centre `size` x `size`, (x - mean) / std.

    Attributes:
        size: height and width of the crop in pixels.
        resize: shorter side before the crop, in pixels, at least `size`; default `size / 0.875`, and below 64 pixels,
            CIFAR's sizes, `size` itself.
        interpolation: "bilinear" or "bicubic", antialiased.
        mean, std: of red, green and blue, on 0..255, whatever `channels` is; of images with another number of channels
            one number for each, in the units of the images.
        exif: whether images are turned upright as their EXIF orientation says; torchvision ignores it: False.
        channels: the order in which the network takes them, "RGB" or "BGR".

    Raises:
        ValueError: a value out of range, from the constructor.
    """

    size: int = 224
    resize: int = 0
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    exif: bool = True
    channels: str = "RGB"

    def __post_init__(self) -> None:
        if not self.resize and isinstance(self.size, Integral):
            object.__setattr__(self, "resize", _uncropped(int(self.size), 0.875))
        for name, least in (("size", 1), ("resize", self.size)):
            value = getattr(self, name)
            if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name}={value!r} must be an integer of at least {least}")
            object.__setattr__(self, name, int(value))
        for name, choices in (("interpolation", INTERPOLATIONS), ("channels", CHANNELS)):
            if (chosen := getattr(self, name)) not in choices:
                raise ValueError(f"{name}={chosen!r} must be one of {', '.join(choices)}")
        if not isinstance(self.exif, bool):
            raise ValueError(f"exif={self.exif!r} must be True or False")
        for name, above in (("mean", float("-inf")), ("std", 0.0)):
            value = getattr(self, name)
            numbers = [float(v) for v in value if isinstance(v, Real)] if isinstance(value, (list, tuple)) else []
            if not numbers or len(numbers) != len(value) or not all(above < v < float("inf") for v in numbers):
                above_0 = " above 0" * (name == "std")
                raise ValueError(f"{name}={value!r} must be one finite number{above_0} a channel, three for RGB")
            object.__setattr__(self, name, tuple(numbers))  # JSON gives lists
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean={self.mean!r} and std={self.std!r} must have as many numbers, one a channel")
        if self.channels == "BGR" and self.bands != 3:
            raise ValueError(f"channels='BGR' is for three channels; mean={self.mean!r} has {self.bands}")

    @property
    def bands(self) -> int:
        """How many channels the images have, 3 for RGB."""
        return len(self.mean)

    def resize_for(self, size: int) -> int:
        """The shorter side for another crop: in proportion, and not cropped at all below 64 pixels."""
        return _uncropped(size, self.size / self.resize)


def _uncropped(size: int, share: float) -> int:
    return round(size / share) if size >= 64 else size


def preprocess_input(images: Array, preprocessing: Preprocessing | None = None) -> Array:
    """Normalises images, RGB on 0..255: subtracts the mean and divides by the standard deviation per channel.

    For a network that takes BGR the channels are then exchanged.

    Args:
        images: (…, height, width, 3), or as many channels as `preprocessing` has; a NumPy array of any number type, a
            backend tensor or a Keras tensor.
        preprocessing: whose mean, deviation and channels to use; default ImageNet's, as all published ResNeXt do.

    Returns:
        The same shape in float32 (or the float type of `images`); NumPy for NumPy. `images` is not changed.

    Raises:
        ValueError: the last axis does not hold 3 channels, or as many as `preprocessing` has.
    """
    if not hasattr(images, "shape"):
        images = np.asarray(images)
    preprocessing = preprocessing or Preprocessing()
    if not len(images.shape) or images.shape[-1] != (bands := preprocessing.bands):
        raise ValueError(f"images must have {bands} channels in the last axis; got shape {tuple(images.shape)}")
    mean, std = np.asarray(preprocessing.mean, "float32"), np.asarray(preprocessing.std, "float32")
    if isinstance(images, np.ndarray):
        dtype = images.dtype if np.issubdtype(images.dtype, np.floating) else np.float32
        return _ordered((images.astype("float32") - mean) / std, preprocessing).astype(dtype)
    import keras
    from keras import ops  # a tensor: its framework is there

    dtype = keras.backend.standardize_dtype(images.dtype)
    images = ops.cast(images, "float32")
    normalised = _ordered((images - mean) / std, preprocessing)
    return ops.cast(normalised, dtype) if "float" in dtype else normalised


def _ordered(images: Array, preprocessing: Preprocessing) -> Array:
    return images[..., ::-1] if preprocessing.channels == "BGR" else images


# Formats that Pillow opens and that are no images of one scene: pages, films, cursors, data of instruments.
_NO_PHOTOGRAPHS = {"BUFR", "CUR", "EPS", "FITS", "FLI", "GRIB", "HDF5", "MPEG", "PDF", "WMF"}

_MOST_ENTRIES = 64
_ORIENTATION = 0x0112  # EXIF's tag, and by its value what turns the image upright
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PNG = b"\x89PNG\r\n\x1a\n"
# Texts and the colour profile, which changes nothing here: Pillow refuses those that are large once unpacked.
_UNREAD_CHUNKS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")


@cache
def image_suffixes() -> tuple[str, ...]:
    """The suffixes, in small letters, of image files that Pillow reads, the most common first."""
    known = {
        s for s, form in Image.registered_extensions().items() if form in Image.OPEN and form not in _NO_PHOTOGRAPHS
    }
    common = [".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"]
    return (*(suffix for suffix in common if suffix in known), *sorted(known - set(common)))


@contextmanager
def open_image(source: str | os.PathLike[str] | bytes) -> Iterator[Image.Image]:
    """Opens an image with Pillow; of a PNG file without texts and colour profile, which Pillow limits."""
    with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
        is_png = file.read(len(_PNG)) == _PNG
        file.seek(0)
        with Image.open(io.BytesIO(_without_extras(file.read())) if is_png else file) as image:
            yield image


def _without_extras(png: bytes) -> bytes:
    kept, start = [png[: len(_PNG)]], len(_PNG)
    while start < len(png):
        end = start + 12 + int.from_bytes(png[start : start + 4], "big")
        if png[start + 4 : start + 8] not in _UNREAD_CHUNKS:
            kept.append(png[start:end])
        start = end
    return b"".join(kept)


def to_rgb(image: Image.Image, exif: bool = True) -> Image.Image:
    """Any image that Pillow has opened, in RGB of 8 bits; transparency is left out.

    Pillow itself cuts grey values of 16 bits off at 255: here 65535 becomes 255.

    Args:
        image: as opened.
        exif: whether it is turned upright as its EXIF orientation says; an orientation that cannot be read is ignored.

    Raises:
        ValueError: values of 32 bits, whose range nobody knows.
    """
    image.load()  # TIFF files are turned by Pillow itself
    turn = _TURNS.get(read_orientation(image)) if exif else None
    # "I" is of 32 bits, but PGM files of 16 are opened as it, and by Pillow before 11 PNG files.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        values = np.asarray(image).astype("int64")
        image = Image.fromarray(((values + 128) // 257).astype("uint8"))
    check_depth(image)
    rgb = image.convert("RGB")
    return rgb if turn is None else rgb.transpose(turn)


def read_orientation(image: Image.Image) -> int:
    """EXIF's tag, as exported graphs read it (`data/tf_orientation.py`); 1 where it is missing or damaged.

    Not Pillow's `getexif`, which looks into XMP too, as graphs and browsers do not, and warns of damage.
    """
    block = image.info.get("exif")
    tiff = block.removeprefix(b"Exif\0\0") if isinstance(block, bytes) else b""
    order: Literal["little", "big"] = "little" if tiff.startswith(b"II") else "big"

    def number(place: int, size: int = 2) -> int:
        return int.from_bytes(tiff[place : place + size], order)

    directory = number(4, 4)
    entries = range(directory + 2, directory + 2 + 12 * min(number(directory), _MOST_ENTRIES), 12)
    # Its type is SHORT, and LONG (4) in files of some programs.
    found = [number(at + 8, 4 if number(at + 2) == 4 else 2) for at in entries if number(at) == _ORIENTATION]
    return found[0] if found and tiff.startswith((b"II*\0", b"MM\0*")) else 1


def check_depth(image: Image.Image) -> None:
    """Raises ValueError where `to_rgb` would."""
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
        raise ValueError(f"its values have 32 bits (Pillow's mode {image.mode}); 8 or 16 bits are expected")


@contextmanager
def image_errors(name: str) -> Iterator[None]:
    """What goes wrong inside while the image called `name` is read, said in a sentence with its name.

    Raises:
        FileNotFoundError: no such file.
        ImportError: a library is missing.
        ValueError: anything else.
    """
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(f"image={name}: there is no such file") from None
    except IsADirectoryError:
        raise ValueError(f"image={name} is a folder, not an image") from None
    except UnidentifiedImageError:
        raise ValueError(f"image={name} is not an image that Pillow reads") from None
    except Image.DecompressionBombError as error:
        raise ValueError(f"image={name} is too large: {error}") from None
    except ImportError:
        raise
    except Exception as error:  # decoders raise anything at all on broken data
        raise ValueError(f"image={name} is broken: {' '.join(str(error).split())}") from None


def load_image(
    source: str | os.PathLike[str] | bytes,
    size: int | tuple[int, int] = 224,
    *,
    resize: int | None = None,
    interpolation: str = "bilinear",
    exif: bool = True,
) -> np.ndarray:
    """Reads an image and brings it to `size` as torchvision evaluates: shorter side to `resize`, centre crop.

    Args:
        source: path or bytes of an image in any format that Pillow reads; animations give their first frame.
        size: height and width of the result in pixels.
        resize: the shorter side before cropping; default `size / 0.875`, and `size` itself below 64 pixels.
        interpolation: "bilinear" or "bicubic", Pillow's, antialiased.
        exif: whether the image is turned upright as its EXIF orientation says. torchvision ignores it: False.

    Returns:
        uint8 array (height, width, 3), RGB.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no image, a broken one, one so large that Pillow takes it for a decompression bomb, or one so
            narrow that it would become such when resized.
    """
    height, width = (size, size) if isinstance(size, int) else size
    name = "bytes" if isinstance(source, bytes) else repr(os.fspath(source))
    with image_errors(name), open_image(source) as image:
        rgb = to_rgb(image, exif)
    resize = resize or Preprocessing().resize_for(min(height, width))
    if (largest := resize**2 * max(rgb.size) // min(rgb.size)) > MAX_RESIZED:
        raise ValueError(f"image={name} is too narrow: resized it would have {largest} pixels, more than {MAX_RESIZED}")
    rgb = resize_shorter_side(rgb, resize, FILTERS[interpolation])
    if rgb.height < height or rgb.width < width:
        raise ValueError(f"size={size!r} is larger than the image after resizing, {rgb.height}x{rgb.width}")
    # torchvision's CenterCrop rounds half to even; so does Python.
    top, left = round((rgb.height - height) / 2.0), round((rgb.width - width) / 2.0)
    return np.asarray(rgb.crop((left, top, left + width, top + height)))


def resize_shorter_side(image: Image.Image, side: int, interpolation: Image.Resampling) -> Image.Image:
    """Resizes so that the shorter side is `side` pixels; the longer one is cut to whole pixels, as torchvision does."""
    short, long = sorted(image.size)
    scaled = int(side * long / short)
    wide = image.width >= image.height
    return image.resize((scaled, side) if wide else (side, scaled), interpolation)
