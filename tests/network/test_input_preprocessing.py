"""What a model takes in and gives out is known: recorded, found in its graph, or asked for."""

import json
import warnings
from dataclasses import asdict, replace

import keras
import numpy as np
import pytest
from keras import ops
from PIL import Image

import keras_resnext
from keras_resnext import Preprocessing, ResNeXt, get_preprocessing, preprocess_input, set_preprocessing
from keras_resnext.classifier import open_classifier
from keras_resnext.data import Augmentation, Listing, Plan, training_batches
from keras_resnext.network.input_preprocessing import named_preprocessing, preprocessing_of

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


def test_what_is_not_known_is_asked_for():
    model = functional(lambda x: x)
    assert get_preprocessing(model) == Preprocessing()
    with pytest.raises(ValueError, match=r"does not say how its images.*preprocessing=imagenet\|none\|tf\|caffe\|FILE"):
        open_classifier(model)
    set_preprocessing(model, Preprocessing(SIZE, mean=(0, 0, 0), std=(255, 255, 255)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = open_classifier(model).scores(IMAGES)
    np.testing.assert_allclose(scores, model.predict(IMAGES / 255, verbose=0), atol=1e-6)


KERAS = keras.applications.imagenet_utils.preprocess_input


def test_answers_are_those_of_keras(tmp_path):
    model, file = functional(lambda x: x), tmp_path / "how.json"
    file.write_text(json.dumps({"mean": [1, 2, 3], "std": [4, 5, 6], "resize": 20, "size": [16, 18]}))
    own = Preprocessing(SIZE, 20, mean=(1, 2, 3), std=(4, 5, 6))
    expected = {"imagenet": KERAS(IMAGES.copy(), mode="torch"), "none": IMAGES, "tf": KERAS(IMAGES.copy(), mode="tf")}
    expected |= {"caffe": KERAS(IMAGES.copy(), mode="caffe"), file: (IMAGES - [1, 2, 3]) / [4, 5, 6]}
    for given, inputs in [*expected.items(), (own, expected[file])]:
        opened = open_classifier(model, preprocessing=given)
        np.testing.assert_allclose(opened.prepare(IMAGES), inputs, atol=1e-4)
        np.testing.assert_allclose(ops.convert_to_numpy(preprocess_input(ops.array(IMAGES), opened.preprocessing)),
                                   inputs, atol=1e-4)  # fmt: skip
    assert named_preprocessing(file) == own
    assert named_preprocessing("tf").resize == 224  # Keras cuts nothing off
    assert preprocessing_of(json.loads(json.dumps(asdict(own)))) == own


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("cafe", ValueError, "preprocessing='cafe' must be one of imagenet, none, tf, caffe, .*; did you mean caffe?"),
        (3, ValueError, "preprocessing=3 must be one of imagenet"),
        ("none.json", FileNotFoundError, r"preprocessing='none\.json': there is no such file"),
        ('{"men": [1, 2, 3]}', ValueError, "does not hold a preprocessing as JSON: 'men' is no field; fields are size"),
        ("[]", ValueError, "no field is there"),
        ('{"channels": "GRB"}', ValueError, "channels='GRB' must be one of RGB, BGR"),
        ('{"size": ["a", 2]}', ValueError, r"size=\['a', 2\] must be an integer"),
        ("{", ValueError, "does not hold a preprocessing as JSON"),
    ],
)
def test_other_answers_are_errors(given, error, message, tmp_path):
    if str(given)[0] in "{[":
        (tmp_path / "how.json").write_text(given)
        given = tmp_path / "how.json"
    with pytest.raises(error, match=message):
        named_preprocessing(given)


def test_what_is_given_replaces_what_is_recorded():
    """A name says how images are normalised, a file all of it; and what it says like the model is nothing new."""
    model = resnext()
    set_preprocessing(model, Preprocessing(SIZE, interpolation="bicubic"))
    with pytest.warns(UserWarning, match=r"that is given replaces that of model='.*': mean \(123\.675, .*\), .* RGB"):
        opened = open_classifier(model, preprocessing="caffe")
    assert opened.preprocessing == replace(named_preprocessing("caffe"), size=16, resize=16, interpolation="bicubic")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_classifier(model, preprocessing="imagenet").interpolation == "bicubic"
        assert open_classifier(model, preprocessing=Preprocessing()).interpolation == "bilinear"
        open_classifier(functional(keras.layers.Rescaling(1 / 255)), preprocessing="none")
    with pytest.warns(UserWarning, match="replaces that of model="):
        assert open_classifier(open_classifier(model), preprocessing="none").prepare(IMAGES).max() == 255


def test_bgr_is_recorded_and_trained_with(tmp_path):
    model = resnext()
    set_preprocessing(model, replace(named_preprocessing("caffe"), size=SIZE, resize=SIZE))
    model.save(tmp_path / "m.keras")
    found = get_preprocessing(keras.saving.load_model(tmp_path / "m.keras"))
    assert (found.channels, found.mean[0]) == ("BGR", 123.68)
    Image.new("RGB", (SIZE, SIZE), (250, 128, 3)).save(tmp_path / "a.png")
    listing = Listing((str(tmp_path / "a.png"),), np.zeros(1, "int64"), ("a",))
    augmentation = Augmentation(size=SIZE)
    for engine in ("python", "tf.data") if keras.backend.backend() == "tensorflow" else ("python",):
        batches = training_batches(listing, Plan(1, 1, 0), augmentation, found, range(1), engine=engine)
        images, _ = next(iter(batches))
        shown = np.asarray(images)[0, 8, 8]
        np.testing.assert_allclose(shown, [3 - 103.939, 128 - 116.779, 250 - 123.68], atol=2)


ENDS = {
    "squeezed": (lambda x: keras.layers.Reshape((4,))(keras.layers.Conv2D(4, 1)(keras.layers.Reshape((1, 1, 8))(x))),
                 "single"),
    "dropout": (lambda x: keras.layers.Dropout(0.5)(keras.layers.Dense(4, "sigmoid")(x)), "multi"),
    "hyperbolic": (lambda x: keras.layers.Dense(4, "tanh")(x), None),
    "sum": (lambda x: keras.layers.Dense(4)(x) + keras.layers.Dense(4)(x), None),
}  # fmt: skip


@pytest.mark.parametrize("end", ENDS)
def test_what_the_last_layer_does_not_show_is_asked_for(end):
    image = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(8, 3)(keras.layers.Rescaling(1 / 255)(image)))
    make, kind = ENDS[end]
    model = keras.Model(image, make(x))
    if kind is None:
        with pytest.raises(ValueError, match=r"ends in .*, which does not show .*; give kind=single\|multi\|raw"):
            open_classifier(model)
        kind = "raw"
        scores = open_classifier(model, kind=kind).scores(IMAGES)
    else:
        scores = open_classifier(model).scores(IMAGES)
    expected = model.predict(IMAGES, verbose=0)
    expected = ops.convert_to_numpy(ops.softmax(expected)) if kind == "single" else expected
    np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_a_batch_norm_is_no_scaling_by_constants():
    assert get_preprocessing(functional(keras.layers.BatchNormalization())).std == Preprocessing().std


def test_only_models_of_rgb_images_have_one():
    grey = keras.Sequential([keras.Input((SIZE, SIZE, 1)), keras.layers.Flatten(), keras.layers.Dense(4)])
    with pytest.raises(ValueError, match="must take images of 3 channels, for which"):
        keras_resnext.set_preprocessing(grey, Preprocessing())
