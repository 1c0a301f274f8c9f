"""Preprocessing against torchvision's transforms on real photographs, and decoding of predictions."""

import io

import keras
import numpy as np
import pytest
import torch
from PIL import Image

from keras_resnext import decode_predictions, preprocess_input
from keras_resnext.preprocessing import imagenet_labels, load_image
from keras_resnext.published import Preprocessing
from tests.references import torchvision_model  # noqa: F401  declares what torchvision needs to import


def photograph(height=300, width=411):
    """A picture with edges, gradients and noise."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    channels = [np.sin(x / 9) * 90 + 120, np.cos(y / 13 + x / 31) * 100 + 120, ((x // 17 + y // 23) % 2) * 200 + 20]
    return (np.stack(channels, -1) + rng.normal(0, 9, (height, width, 3))).clip(0, 255).astype("uint8")


def encoded(array, format="PNG", mode=None):
    stream = io.BytesIO()
    picture = Image.fromarray(array)
    (picture.convert(mode) if mode else picture).save(stream, format)
    return stream.getvalue()


@pytest.mark.parametrize("size", [(300, 411), (411, 300), (224, 224), (100, 90), (257, 1000)])
@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_bit_equal_to_torchvision(size, format):
    from torchvision import transforms

    data = encoded(photograph(*size), format)
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    steps = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])
    assert np.array_equal(load_image(data, 224), np.asarray(steps(picture)))
    normalised = transforms.Compose(
        [steps, transforms.ToTensor(), transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]
    )(picture)
    ours = preprocess_input(load_image(data, 224))
    assert np.abs(ours - normalised.permute(1, 2, 0).numpy()).max() < 1e-5


def test_preprocess_input_keeps_kind_and_input():
    images = np.full((2, 4, 4, 3), 255, "uint8")
    out = preprocess_input(images)
    assert (out.dtype, images.max()) == (np.float32, 255)
    assert out[0, 0, 0] == pytest.approx([(255 - 123.675) / 58.395, (255 - 116.28) / 57.12, (255 - 103.53) / 57.375])
    tensor = preprocess_input(keras.ops.convert_to_tensor(images))
    assert np.allclose(keras.ops.convert_to_numpy(tensor), out, atol=1e-6)
    symbolic = preprocess_input(keras.Input((None, None, 3)))
    assert symbolic.shape == (None, None, None, 3)
    assert preprocess_input(images.astype("float64")).dtype == np.float64
    assert preprocess_input([[[0, 0, 0]]]).shape == (1, 1, 3)
    with pytest.raises(ValueError, match=r"3 channels in the last axis; got shape \(2, 4, 4, 1\)"):
        preprocess_input(images[..., :1])


def test_decode_predictions_as_keras_applications():
    scores = np.zeros((2, 1000), "float32")
    scores[0, [0, 999, 281]] = 0.2, 0.5, 0.3
    scores[1, 7] = 1
    best = decode_predictions(scores, top=3)
    assert best[0] == [
        ("n15075141", "toilet tissue", pytest.approx(0.5)),
        ("n02123045", "tabby", pytest.approx(0.3)),
        ("n01440764", "tench", pytest.approx(0.2)),
    ]
    assert len(decode_predictions(torch.tensor(scores).numpy())[1]) == 5
    for bad in (np.zeros((2, 10)), np.zeros(1000)):
        with pytest.raises(ValueError, match=r"predictions must have shape \(batch, 1000\)"):
            decode_predictions(bad)
    with pytest.raises(ValueError, match=r"top=0 must lie in 1\.\.1000"):
        decode_predictions(scores, top=0)


def test_labels():
    labels = imagenet_labels()
    assert (len(labels), len(set(labels)), labels[0], labels[-1]) == (1000, 1000, "tench", "toilet tissue")


@pytest.mark.parametrize(
    ("format", "mode"), [("PNG", "L"), ("PNG", "RGBA"), ("GIF", None), ("BMP", None), ("JPEG", "CMYK")]
)
def test_other_kinds_of_pictures(format, mode):
    assert load_image(encoded(photograph(), format, mode), 64).shape == (64, 64, 3)


def test_what_is_no_picture(tmp_path):
    whole = encoded(photograph(), "JPEG")
    (tmp_path / "cut.jpg").write_bytes(whole[:2000])
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "empty.png").write_bytes(b"")
    for name, message in (("cut.jpg", "is broken"), ("text.jpg", "is no picture"), ("empty.png", "is no picture")):
        with pytest.raises(ValueError, match=f"image=.*{name}' {message}"):
            load_image(tmp_path / name)
    with pytest.raises(ValueError, match="is a folder"):
        load_image(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"image=.*none\.jpg': there is no such file"):
        load_image(tmp_path / "none.jpg")
    with pytest.raises(ValueError, match="is too large"):
        load_image(
            encoded(np.zeros((1, 1), "uint8"), "BMP")[:18] + (60000).to_bytes(4, "little") * 2 + b"\1\0\1\0" + bytes(24)
        )


def test_small_pictures_are_not_cropped():
    assert [Preprocessing().resize_for(n) for n in (32, 224, 288)] == [32, 256, 329]
    digit = np.arange(64, dtype="uint8").reshape(8, 8)
    assert load_image(encoded(digit), 32).shape == (32, 32, 3)
