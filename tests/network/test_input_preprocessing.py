"""What a model takes in is known: recorded, found in its graph, or said to be assumed."""

import warnings

import keras
import numpy as np
import pytest

import keras_resnext
from keras_resnext import Preprocessing, ResNeXt, get_preprocessing, preprocess_input, set_preprocessing
from keras_resnext.classifier import open_classifier

SIZE = 16
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (5, SIZE, SIZE, 3)).astype("float32")


def classify(x):
    x = keras.layers.Conv2D(8, 3, activation="relu")(x)
    return keras.layers.Dense(4, activation="softmax")(keras.layers.GlobalAveragePooling2D()(x))


def functional(scale):
    image = keras.Input((SIZE, SIZE, 3))
    return keras.Model(image, classify(scale(image)))


def adapted():
    layer = keras.layers.Normalization()
    layer.adapt(IMAGES)
    return functional(layer)


def resnext(**options):
    tiny = {"blocks": (1,), "num_stages": 1, "strides": (1,), "dilations": (1,), "groups": 2, "base_channels": 4}
    return ResNeXt(**{**tiny, "stem": "cifar", "classes": 4, "input_shape": (SIZE, SIZE, 3), **options})


def nested():
    image = keras.Input((SIZE, SIZE, 3))
    inner = functional(keras.layers.Rescaling(1 / 255))
    return keras.Model(image, inner(keras.layers.RandomFlip()(image)))


def around_a_resnext():
    image = keras.Input((SIZE, SIZE, 3))
    return keras.Model(image, resnext()(preprocess_input(image)))


SCALED_INSIDE = {
    "rescaling": lambda: functional(keras.layers.Rescaling(1 / 127.5, -1)),
    "normalization": adapted,
    "division": lambda: functional(lambda x: x / 255),
    "applications, tf": lambda: functional(keras.applications.mobilenet.preprocess_input),
    "applications, caffe": lambda: functional(keras.applications.resnet.preprocess_input),
    "ours": lambda: functional(preprocess_input),
    "nested": nested,
    "around a ResNeXt": around_a_resnext,
    "sequential": lambda: keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Flatten(),
            keras.layers.Dense(4, "softmax"),
        ]
    ),
    "applications": lambda: keras.applications.EfficientNetV2B0(weights=None, input_shape=(32, 32, 3), classes=4),
}


@pytest.mark.parametrize("name", SCALED_INSIDE)
def test_scaling_inside_is_found_and_images_go_in_as_they_are(name):
    model = SCALED_INSIDE[name]()
    found = get_preprocessing(model)
    assert (found.mean, found.std) == ((0, 0, 0), (1, 1, 1))
    assert found.size == model.input_shape[1]
    images = np.repeat(np.repeat(IMAGES, found.size // SIZE, 1), found.size // SIZE, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = open_classifier(model).scores(images)
    np.testing.assert_allclose(scores, model.predict(images, verbose=0), atol=1e-6)


def test_what_is_recorded_counts():
    model = resnext()
    assert get_preprocessing(model) == Preprocessing(SIZE)
    image = keras.Input((SIZE, SIZE, 3))
    on_top = keras.Model(image, model(keras.layers.RandomFlip()(image)))
    assert get_preprocessing(on_top) == Preprocessing(SIZE)


def test_what_is_assumed_is_said():
    model = functional(lambda x: x)
    assert get_preprocessing(model) == Preprocessing()
    with pytest.warns(UserWarning, match=r"does not say how its images are prepared.*ImageNet's mean"):
        open_classifier(model)
    set_preprocessing(model, Preprocessing(SIZE, mean=(0, 0, 0), std=(255, 255, 255)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = open_classifier(model).scores(IMAGES)
    np.testing.assert_allclose(scores, model.predict(IMAGES / 255, verbose=0), atol=1e-6)


def test_a_batch_norm_is_no_scaling_by_constants():
    assert get_preprocessing(functional(keras.layers.BatchNormalization())).std == Preprocessing().std


def test_only_models_of_rgb_images_have_one():
    grey = keras.Sequential([keras.Input((SIZE, SIZE, 1)), keras.layers.Flatten(), keras.layers.Dense(4)])
    with pytest.raises(ValueError, match="must take RGB images to have a preprocessing"):
        keras_resnext.set_preprocessing(grey, Preprocessing())
