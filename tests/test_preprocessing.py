"""Preprocessing against torchvision's transforms on real photographs, and decoding of predictions."""

import io
from pathlib import Path

import keras
import numpy as np
import pytest
import skimage
import torch
from PIL import Image

from keras_resnext import Preprocessing, ResNeXt, decode_predictions, preprocess_input, set_preprocessing
from keras_resnext.classifier import predict_images
from keras_resnext.export import export_saved_model
from keras_resnext.labels import imagenet_labels
from keras_resnext.preprocessing import load_image
from keras_resnext.weights.published import PUBLISHED
from tests.references import torchvision_model  # noqa: F401  declares what torchvision needs to import
from tests.support import randomise


def photograph(height=300, width=411):
    """An image with edges, gradients and noise."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    channels = [np.sin(x / 9) * 90 + 120, np.cos(y / 13 + x / 31) * 100 + 120, ((x // 17 + y // 23) % 2) * 200 + 20]
    return (np.stack(channels, -1) + rng.normal(0, 9, (height, width, 3))).clip(0, 255).astype("uint8")


def encoded(array, format="PNG", mode=None):
    stream = io.BytesIO()
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(stream, format)
    return stream.getvalue()


@pytest.mark.parametrize("size", [(300, 411), (411, 300), (224, 224), (100, 90), (257, 1000)])
@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_bit_equal_to_torchvision(size, format):
    from torchvision import transforms

    data = encoded(photograph(*size), format)
    image = Image.open(io.BytesIO(data)).convert("RGB")
    steps = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])
    assert np.array_equal(load_image(data, 224), np.asarray(steps(image)))
    normalised = transforms.Compose(
        [steps, transforms.ToTensor(), transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]
    )(image)
    ours = preprocess_input(load_image(data, 224))
    assert np.abs(ours - normalised.permute(1, 2, 0).numpy()).max() < 1e-5


def photographs():
    """Real ones: PNG and JPEG files that scikit-image ships."""
    folder = Path(skimage.__file__).parent / "data"
    names = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "hubble_deep_field.jpg", "retina.jpg")
    return [folder / name for name in names]


def pipelines():
    """Those of the published weights, timm's and torchvision's; at other sizes than 224 on one photograph each."""
    found = {(row.source == "timm", how) for row in PUBLISHED for how in (row.preprocessing, row.test_preprocessing)}
    for i, (timm, how) in enumerate(sorted((pair for pair in found if pair[1]), key=str)):
        for path in photographs() if how.size == 224 else [photographs()[i % 6]]:
            name = f"{'timm' if timm else 'torchvision'}-{how.size}-{how.resize}-{how.interpolation}-{path.name}"
            yield pytest.param(timm, how, path, id=name)


@pytest.mark.parametrize(("timm", "preprocessing", "path"), [*pipelines()])
def test_published_preprocessing_on_real_photographs(timm, preprocessing, path):
    """The sources' own pipelines: bit-equal with Pillow; in TensorFlow within 1 of 255 for 99.9 % of the values."""
    from torchvision import transforms

    image = Image.open(path).convert("RGB")
    size, resize = preprocessing.size, preprocessing.resize
    if timm:
        from timm.data.transforms_factory import transforms_imagenet_eval

        fraction = size / (resize + 0.5)  # it rounds size / fraction down
        whole = transforms_imagenet_eval(size, crop_pct=fraction, interpolation=preprocessing.interpolation)
        reference = whole(image).permute(1, 2, 0).numpy()
        pixels = np.asarray(transforms.Compose(whole.transforms[:2])(image))
    else:
        pixels = np.asarray(transforms.Compose([transforms.Resize(resize), transforms.CenterCrop(size)])(image))
        reference = (pixels - np.array(preprocessing.mean)) / np.array(preprocessing.std)
    options = dict(resize=resize, interpolation=preprocessing.interpolation)
    ours = load_image(path, size, **options)
    assert np.array_equal(ours, pixels)
    assert np.abs(preprocess_input(ours, preprocessing) - reference).max() < 1e-5
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        from keras_resnext.export.image_decoding import decode_image

        data = tf.constant(path.read_bytes())
        graph = decode_image(data, (size, size), resize, preprocessing.interpolation).numpy()
        assert np.mean(np.abs(graph - pixels) <= 1) > 0.999


def test_prediction_and_export_follow_the_models_own_preprocessing(tmp_path):
    """Normalised by other numbers, resized otherwise, and bicubic: the same scores as by hand."""
    own = Preprocessing(64, 70, "bicubic", mean=(10, 20, 30), std=(100, 110, 120))
    model = randomise(ResNeXt(blocks=(1, 1, 1, 1), groups=4, base_channels=8, classes=9, input_shape=(64, 64, 3)))
    set_preprocessing(model, own)
    path = photographs()[1]
    pixels = load_image(path, 64, resize=70, interpolation="bicubic")
    inputs = (pixels.astype("float32") - np.float32(own.mean)) / np.float32(own.std)
    expected = model.predict_on_batch(inputs[None])[0]
    [(_, ranking)] = predict_images(model, [path], top=9)
    assert {int(name): score for name, score in ranking} == pytest.approx(dict(enumerate(expected)), abs=1e-6)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        loaded = tf.saved_model.load(str(export_saved_model(model, tmp_path)))
        images = tf.constant(pixels[None], tf.float32)
        scores = loaded.signatures["serving_default"](images=images)["probabilities"]
        assert np.abs(scores.numpy()[0] - expected).max() < 1e-5
        scores = loaded.signatures["serving_bytes"](image_bytes=tf.constant([path.read_bytes()]))["probabilities"]
        assert np.abs(scores.numpy()[0] - expected).max() < 0.02


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
def test_other_kinds_of_images(format, mode):
    assert load_image(encoded(photograph(), format, mode), 64).shape == (64, 64, 3)


def test_what_is_no_image(tmp_path):
    whole = encoded(photograph(), "JPEG")
    (tmp_path / "cut.jpg").write_bytes(whole[:2000])
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "empty.png").write_bytes(b"")
    for name, message in (("cut.jpg", "is broken"), ("text.jpg", "is not an image"), ("empty.png", "is not an image")):
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


def test_the_size_that_weights_were_made_for(tmp_path):
    cifar = ResNeXt(blocks=(1, 1, 1), stem="cifar", groups=4, base_channels=8, classes=4, input_shape=(None, None, 3))
    path = photographs()[0]
    [(_, free)], [(_, given)] = (list(predict_images(cifar, [path], image_size=size)) for size in (None, 32))
    assert free == given
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        loaded = tf.saved_model.load(str(export_saved_model(cifar, tmp_path)))
        assert loaded.signatures["serving_default"].structured_input_signature[1]["images"].shape[1:3] == (32, 32)


def test_small_images_are_not_cropped():
    assert [Preprocessing().resize_for(n) for n in (32, 224, 288)] == [32, 256, 329]
    digit = np.arange(64, dtype="uint8").reshape(8, 8)
    assert load_image(encoded(digit), 32).shape == (32, 32, 3)
