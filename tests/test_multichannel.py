"""Images of any number of channels: .npy arrays, TIFF files and grey ones are read, varied and refused by name."""

import io
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from keras_resnext.data import find_unreadable, read_listing
from keras_resnext.data.augmentation import Augmentation
from keras_resnext.data.crops import crop_image, finish_crop, make_image
from keras_resnext.data.transforms import DRAWS
from keras_resnext.multichannel import load_bands, read_bands
from keras_resnext.preprocessing import Preprocessing, load_image, preprocess_input

VALUES = np.random.default_rng(0).integers(0, 60000, (9, 13, 5)).astype("uint16")


def npy(values):
    np.save(file := io.BytesIO(), values)
    return file.getvalue()


def png(values):
    Image.fromarray(values).save(file := io.BytesIO(), "PNG")
    return file.getvalue()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", ">i4", "float16", "float64", "bool"])
def test_arrays_keep_their_values(dtype):
    values = VALUES.astype(dtype)
    found = read_bands(npy(values), 5)
    assert found.dtype == "float32"
    np.testing.assert_array_equal(found, values.astype("float32"))
    np.testing.assert_array_equal(read_bands(npy(np.asfortranarray(values)), 5), found)
    np.testing.assert_array_equal(read_bands(npy(values[..., 0]), 1), found[..., :1])


def test_tiff_files_have_their_bands_last_or_first_or_as_pages(tmp_path, monkeypatch):
    tifffile = pytest.importorskip("tifffile", reason="keras_resnext[tiff] is not installed")
    for name, values, options in (
        ("last", VALUES, {"planarconfig": "contig"}),
        ("first", VALUES.transpose(2, 0, 1), {"planarconfig": "separate"}),
        ("pages", VALUES.transpose(2, 0, 1), {}),
    ):
        tifffile.imwrite(path := tmp_path / f"{name}.tif", values, photometric="minisblack", **options)
        np.testing.assert_array_equal(read_bands(path, 5), VALUES)
    with pytest.raises(ValueError, match=r"pages.tif' has 5 channels, not 4"):
        read_bands(path, 4)
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(ImportError, match=r"need tifffile .*pip install 'keras_resnext\[tiff\]'"):
        read_bands(path, 5)


def test_one_channel_is_any_image_in_grey_and_others_count_as_they_are():
    colours = VALUES[..., :3].astype("uint8")
    grey = np.asarray(Image.fromarray(colours).convert("L"))
    np.testing.assert_array_equal(read_bands(png(colours), 1)[..., 0], grey)
    with_alpha = VALUES[..., :4].astype("uint8")
    np.testing.assert_array_equal(read_bands(png(with_alpha), 4), with_alpha)


class Trap:
    def __reduce__(self):
        return pytest.fail, ("a pickle was read",)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (npy(VALUES), "image=bytes has 5 channels, not 4"),
        (png(VALUES[..., :3].astype("uint8")), "image=bytes has 3 channels, not 4"),
        (npy(VALUES[0, 0]), r"must be \(height, width, channels\) of numbers; it is uint16 of shape \(5,\)"),
        (npy(VALUES[:0]), r"of shape \(0, 13, 5\)"),
        (npy(np.array([Trap()], object)), "is broken: its values are object, not numbers"),
        (npy(np.full((2, 2, 4), "a")), "its values are <U1, not numbers"),
        (npy(np.full((2, 2, 4), np.nan)), "holds values that are no finite numbers"),
        (npy(VALUES)[:-1], "is broken: it holds 1169 bytes, not 1170"),
        (npy(VALUES).replace(b"(9, 13, 5), }   ", b"(9999999,13,5),}"), "is broken: it holds 1170 bytes, not"),
        (b"\x93NUMPY\x09\x00", "is broken: version"),
        (b"\x93NUMPY\x01\x00\xff\xff{", "is broken: "),
        (b"II*\0 no TIFF", "is broken: "),
        (b"nothing at all", "is not an image that Pillow reads"),
        (b"", "is not an image that Pillow reads"),
    ],
)
def test_what_cannot_be_read_is_named_in_one_line(data, message):
    with pytest.raises(ValueError, match=message) as error:
        read_bands(data, 4)
    assert "\n" not in str(error.value)


def test_files_that_are_not_there_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a.npy': there is no such file"):
        read_bands(tmp_path / "a.npy", 2)
    with pytest.raises(ValueError, match="is a folder, not an image"):
        read_bands(tmp_path, 2)
    with pytest.raises(ValueError, match="it is too narrow"):
        load_bands(npy(np.zeros((1, 9000, 2))), 224, Preprocessing(mean=(0.0, 0.0), std=(1.0, 1.0)))


@pytest.mark.parametrize("augmentation", [Augmentation(size=6), Augmentation(size=6, crop_padding=1)])
def test_a_channel_is_prepared_and_varied_as_an_image_in_colours_is(augmentation):
    colours = np.random.default_rng(1).integers(0, 256, (40, 30, 3)).astype("uint8")
    how = Preprocessing(6, resize=8, mean=(0.0,) * 4, std=(1.0,) * 4)
    four = npy(np.concatenate([colours, colours[..., :1]], -1))
    given = load_bands(four, 6, how)
    assert np.abs(given[..., :3] - load_image(png(colours), 6, resize=8)).max() <= 1  # which is rounded, twice
    for seed in range(4):
        draws = np.random.default_rng(seed).random(DRAWS)
        shown = finish_crop(crop_image(png(colours), draws, augmentation), draws, 0, augmentation)
        assert np.abs(make_image(four, draws, 0, augmentation, bands=4)[..., :3] - shown).max() <= 1


def test_means_have_one_number_a_channel():
    how = Preprocessing(mean=[1.0, 2.0], std=[2.0, 4.0])
    np.testing.assert_array_equal(preprocess_input(np.full((1, 1, 2), 5), how), [[[2, 0.75]]])
    with pytest.raises(ValueError, match="images must have 2 channels in the last axis"):
        preprocess_input(np.zeros((1, 1, 3)), how)
    with pytest.raises(ValueError, match="channels='BGR' is for three channels"):
        replace(how, channels="BGR")


def test_arrays_in_folders_are_images_where_they_are_asked_for(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "x.npy", VALUES)
    with pytest.raises(ValueError, match="holds no images"):
        read_listing(tmp_path)
    listing = read_listing(tmp_path, arrays=True)
    assert find_unreadable(listing, bands=5) == {}
    assert find_unreadable(listing, bands=2) == dict.fromkeys((0, 1), "has 5 channels, not 2")
