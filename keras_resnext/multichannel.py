"""Images of any number of channels: grey ones, NumPy's arrays and TIFF files of many bands."""

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from .preprocessing import FILTERS, MAX_RESIZED, Preprocessing, image_errors, open_image, resize_shorter_side, to_rgb

Source = str | os.PathLike[str] | bytes

NPY = b"\x93NUMPY"
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two are BigTIFF
INSTALL = "pip install 'keras_resnext[tiff]'"
MOST_BYTES = 1 << 30  # of one image, unpacked
_KINDS = "buif"  # of NumPy's types: bool, unsigned, signed, float


def read_bands(source: Source, bands: int, *, exif: bool = True) -> np.ndarray:
    """An image with all of its channels, in its own units: float32 (height, width, `bands`).

    Of one channel: any image that Pillow reads, grey as Pillow makes it, on 0..255. Of others: a .npy array (height,
    width, channels), or (height, width) for one channel, of integers or floats; a TIFF file with as many bands or
    pages; any other image that has as many channels, such as four with transparency.

    Args:
        source: path or bytes.
        bands: how many channels are expected.
        exif: as of `preprocessing.load_image`; of images that Pillow reads.

    Raises:
        FileNotFoundError: no such file.
        ImportError: a TIFF file of many bands, and tifffile is not installed.
        ValueError: no image, a broken or a huge one, values that are no numbers, or another number of channels.
    """
    name = "bytes" if isinstance(source, bytes) else repr(os.fspath(source))
    with image_errors(name):
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
        values = _find_reader(data, bands)(data, bands, exif)
    values = values[..., None] if values.ndim == 2 else values
    if values.ndim != 3 or 0 in values.shape or values.dtype.kind not in _KINDS:
        raise ValueError(f"image={name} must be (height, width, channels) of numbers; it is {_describe(values)}")
    if values.shape[-1] != bands:
        raise ValueError(f"image={name} has {values.shape[-1]} channels, not {bands}")
    values = values.astype("float32")
    if not np.isfinite(values).all():
        raise ValueError(f"image={name} holds values that are no finite numbers")
    return values


def _describe(values: np.ndarray) -> str:
    return f"{values.dtype} of shape {values.shape}"


def _find_reader(data: bytes, bands: int) -> Callable[[bytes, int, bool], np.ndarray]:
    if data.startswith(NPY):
        return _read_npy
    return _read_tiff if bands > 1 and data.startswith(TIFF) else _read_by_pillow


def _read_npy(data: bytes, bands: int, exif: bool) -> np.ndarray:
    """Without pickles; what the header says is compared with what is there before memory is taken."""
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in read_header:
        raise ValueError(f"version {version} of NumPy's format is not for numbers")
    shape, fortran, dtype = read_header[version](file)
    if dtype.kind not in _KINDS:
        raise ValueError(f"its values are {dtype}, not numbers")
    count = int(np.prod(shape, dtype=object))
    if count * dtype.itemsize != len(data) - file.tell():
        raise ValueError(f"it holds {len(data) - file.tell()} bytes, not {count * dtype.itemsize}")
    return np.frombuffer(data, dtype, offset=file.tell()).reshape(shape, order="F" if fortran else "C")


def _read_tiff(data: bytes, bands: int, exif: bool) -> np.ndarray:
    try:
        import tifffile
    except ImportError as error:
        raise ImportError(f"TIFF files of {bands} channels need tifffile ({error}): {INSTALL}") from error
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        series = tiff.series[0]
        if (size := series.size * series.dtype.itemsize) > MOST_BYTES:
            raise ValueError(f"unpacked it has {size} bytes, more than {MOST_BYTES}")
        values, axes = np.asarray(series.asarray()), series.axes
    places = [axes.find("Y"), axes.find("X")]
    rest = [axis for axis in range(values.ndim) if axis not in places]
    return values.transpose(*places, *rest) if -1 not in places else values


def _read_by_pillow(data: bytes, bands: int, exif: bool) -> np.ndarray:
    with open_image(data) as image:
        if bands == 1:
            return np.asarray(to_rgb(image, exif).convert("L"))
        image.load()
        return np.asarray(image)


def resize_bands(values: np.ndarray, size: tuple[int, int], interpolation: str) -> np.ndarray:
    """(height, width, channels) float32 resized to `size`, (height, width), by Pillow with antialiasing."""
    return _each_band(values, lambda band: band.resize(size[::-1], FILTERS[interpolation]))


def _each_band(values: np.ndarray, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    channels = (np.ascontiguousarray(values[..., i], "float32") for i in range(values.shape[-1]))
    return np.stack([np.asarray(change(Image.fromarray(channel))) for channel in channels], axis=-1)


def centre_crop(values: np.ndarray, resize: int, size: tuple[int, int], interpolation: str) -> np.ndarray:
    """Shorter side to `resize`, then the middle of `size`, as `preprocessing.load_image` does."""
    height, width = size
    longest, shortest = max(values.shape[:2]), min(values.shape[:2])
    if (largest := resize**2 * longest // shortest) > MAX_RESIZED:
        raise ValueError(f"it is too narrow: resized it would have {largest} pixels, more than {MAX_RESIZED}")
    values = _each_band(values, lambda band: resize_shorter_side(band, resize, FILTERS[interpolation]))
    top, left = (round((have - want) / 2.0) for have, want in zip(values.shape[:2], size, strict=True))
    return values[top : top + height, left : left + width]


def load_bands(
    source: Source,
    size: int | tuple[int, int],
    preprocessing: Preprocessing,
) -> np.ndarray:
    """As `preprocessing.load_image`, of an image of any number of channels: float32 (height, width, channels).

    Args:
        source: as of `read_bands`.
        size: height and width of the result in pixels.
        preprocessing: how many channels there are, and how it is resized and cropped.

    Raises:
        FileNotFoundError, ImportError: as of `read_bands`.
        ValueError: so too; an image that is too narrow, or smaller than `size` after resizing.
    """
    how = preprocessing
    height, width = (size, size) if isinstance(size, int) else size
    values = read_bands(source, how.bands, exif=how.exif)
    values = centre_crop(values, how.resize, (height, width), how.interpolation)
    if values.shape[:2] != (height, width):
        raise ValueError(f"size={size!r} is larger than the image after resizing, {values.shape[0]}x{values.shape[1]}")
    return values
