"""Published weights by name, from a real server: built, loaded, cached, adapted, refused."""

import hashlib
import subprocess
import sys
import warnings
from dataclasses import replace

import keras
import numpy as np
import pytest
import torch

import keras_resnext
from keras_resnext import ResNeXt, create, from_pretrained, get_preprocessing, set_preprocessing
from keras_resnext.preprocessing import Preprocessing
from keras_resnext.weights import published
from keras_resnext.weights.published import PublishedWeights
from tests import references
from tests.file_server import serve
from tests.support import relative_error

PREPROCESSING = Preprocessing(resize=232, interpolation="bicubic")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Folder with a real checkpoint under its published kind of name, the table's rows for it, its network."""
    from torchvision.models.resnet import Bottleneck, ResNet

    folder = tmp_path_factory.mktemp("served")
    module = references.randomise(ResNet(Bottleneck, [2, 2, 2, 2], groups=32, width_per_group=4))
    torch.save(module.state_dict(), folder / "whole.pth")
    digest = hashlib.sha256((folder / "whole.pth").read_bytes()).hexdigest()
    name = f"resnext26_32x4d-{digest[:8]}.pth"
    (folder / "whole.pth").rename(folder / name)
    rows = [
        PublishedWeights("torchvision", "resnext26_32x4d", "v1", name, 70, 90, "BSD-3-Clause", PREPROCESSING),
        PublishedWeights("timm", "resnext26_32x4d", "nc", name, 99, None, "CC-BY-NC-4.0", PREPROCESSING),
    ]
    return folder, rows, module


@pytest.fixture
def server(files, tmp_path, monkeypatch):
    folder, rows, _ = files
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    with serve(folder) as server:
        monkeypatch.setattr(published, "PUBLISHED", tuple(replace(row, url=server.url(row.url)) for row in rows))
        yield server


def images(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype("float32")


def test_by_name(server, files, tmp_path):
    _, rows, module = files
    x = images(1, 64, 64, 3)
    expected = references.logits(module, x)
    options = dict(input_shape=(64, 64, 3), classifier_activation=None)
    for model in (
        from_pretrained("torchvision/resnext26_32x4d.v1", **options),
        from_pretrained("imagenet/resnext26_32x4d", **options),
        create("resnext26_32x4d", weights="torchvision", **options),
        ResNeXt(26, blocks=(2, 2, 2, 2), weights="imagenet", **options),
    ):
        assert relative_error(model.predict_on_batch(x), expected) < 1e-5
        assert get_preprocessing(model) == PREPROCESSING
    assert list(server.requests.values()) == [1]
    assert [p.name for p in (tmp_path / "keras/models/keras_resnext").glob("*.pth")] == [rows[0].url]


def test_sizes_heads_and_channels_are_those_of_the_row(server, monkeypatch, capsys):
    """Images of the measured size, also at the test size; a backbone without a head; BGR kernels turned round."""
    row = published.PUBLISHED[0]
    small, large = Preprocessing(64, 70), Preprocessing(96, 96)
    sized = replace(row, preprocessing=small, test_preprocessing=large, test_top1=71.5)
    backbone = replace(row, tag="backbone", classes=0, bgr=True, licence="unknown")
    monkeypatch.setattr(published, "PUBLISHED", (sized, backbone))
    model = from_pretrained(row.name)
    assert (model.input_shape, get_preprocessing(model)) == ((None, 64, 64, 3), small)
    assert "stands for" not in capsys.readouterr().err
    model = from_pretrained("imagenet/resnext26_32x4d@96")
    assert (model.input_shape, get_preprocessing(model)) == ((None, 96, 96, 3), large)
    taken = "stands for torchvision/resnext26_32x4d.v1@96, 71.5 % on ImageNet\n"
    assert capsys.readouterr().err == f"keras-resnext: imagenet/resnext26_32x4d@96 {taken}"
    create("resnext26_32x4d", weights="imagenet@96")
    assert capsys.readouterr().err == f"keras-resnext: imagenet@96 {taken}"
    with pytest.warns(UserWarning, match="come without a licence; torchvision knows whose they are"):
        maps = from_pretrained(backbone.name)
    assert maps.output_shape == (None, None, None, 2048)
    kernels = [np.asarray(network.get_layer("conv1").kernel) for network in (model, maps)]
    assert np.array_equal(kernels[0], kernels[1][:, :, ::-1])


def test_weights_without_a_head_and_dilated(server):
    model = create(
        "resnext26_32x4d", weights="imagenet", include_top=False, dilations=(1, 1, 2, 4), strides=(1, 2, 1, 1)
    )
    assert model.output_shape == (None, None, None, 2048)
    assert (
        len(create("resnext26_32x4d", weights="imagenet", include_top=False, num_stages=4, out_indices=(1, 3)).outputs)
        == 2
    )


def test_another_head_starts_at_random_and_says_so(server):
    with pytest.warns(UserWarning, match="a head of 1000 classes and the model one of 7"):
        model = from_pretrained("imagenet/resnext26_32x4d", classes=7, input_shape=(32, 32, 3))
    assert model.output_shape == (None, 7)
    assert 0 < np.abs(model.get_layer("fc").get_weights()[0]).max() < 0.1  # normal, 0.01


def test_what_may_not_be_used_commercially_says_so(server):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        from_pretrained("imagenet/resnext26_32x4d", input_shape=(32, 32, 3))
    with pytest.warns(UserWarning, match=r"timm/resnext26_32x4d\.nc may not be used commercially: CC-BY-NC-4\.0"):
        from_pretrained("timm/resnext26_32x4d.nc", input_shape=(32, 32, 3))


def test_networks_that_published_weights_are_not_for(server):
    for options in (
        dict(style="caffe"),
        dict(conv_cfg={"type": "ConvWS"}),
        dict(norm_cfg={"type": "GN", "num_groups": 4}),
        dict(avg_down=True),
        dict(groups=16),
        dict(base_channels=32, groups=1),
    ):
        with pytest.raises(ValueError, match=r"weights='imagenet'.*(there are none of model=|were trained without )"):
            ResNeXt(26, **{"blocks": (2, 2, 2, 2), "weights": "imagenet", **options})
    assert not server.requests
    with pytest.raises(ValueError, match=r"weights=None cannot be given beside name='imagenet/resnext26_32x4d'"):
        from_pretrained("imagenet/resnext26_32x4d", weights=None)
    with pytest.raises(ValueError, match="name=3 must be a text"):
        from_pretrained(3)


def test_offline_tells_where_to_put_the_file(server, files, tmp_path):
    folder, rows, _ = files
    target = tmp_path / "keras" / "models" / "keras_resnext" / rows[0].url
    server.server_close()
    with pytest.raises(OSError, match="cannot download") as error:
        create("resnext26_32x4d", weights="imagenet")
    for part in (server.url(rows[0].url), str(target), published.PUBLISHED[0].sha256_prefix):
        assert part in str(error.value)
    target.write_bytes((folder / rows[0].url).read_bytes())
    create("resnext26_32x4d", weights="imagenet", input_shape=(32, 32, 3))


def test_a_file_under_its_published_name_brings_its_preprocessing(server, files, monkeypatch):
    folder, rows, _ = files
    from keras_resnext.loading import load_model

    monkeypatch.setattr(published, "PUBLISHED", published.PUBLISHED[:1])
    assert get_preprocessing(load_model(folder / rows[0].url)) == PREPROCESSING
    model = create("resnext26_32x4d", weights=folder / rows[0].url, input_shape=(32, 32, 3))
    assert get_preprocessing(model) == PREPROCESSING
    assert get_preprocessing(load_model("torchvision/resnext26_32x4d.v1", input_shape=(32, 32, 3))) == PREPROCESSING
    monkeypatch.setattr(published, "PUBLISHED", (replace(published.PUBLISHED[0], licence="CC-BY-NC-4.0"),))
    with pytest.warns(UserWarning, match="may not be used commercially"):  # as a file, too
        load_model(folder / rows[0].url)


def test_preprocessing_goes_where_the_network_goes(tmp_path):
    model = ResNeXt(blocks=(1, 1, 1, 1), groups=4, base_channels=8, classes=3, input_shape=(32, 32, 3))
    assert get_preprocessing(model) == Preprocessing(size=32)
    set_preprocessing(model, PREPROCESSING)
    model.save(tmp_path / "m.keras")
    built_on = keras.Model(model.input, keras.layers.Dense(2)(model.get_layer("avgpool").output))
    around = keras.Sequential([keras.Input((32, 32, 3)), model, keras.layers.Dense(2)])
    around.save(tmp_path / "around.keras")
    for other in (
        keras.saving.load_model(tmp_path / "m.keras"),
        keras.saving.load_model(tmp_path / "around.keras"),
        keras.models.clone_model(model),
        built_on,
        around,
        ResNeXt(
            *(50, 4, 4),
            blocks=(1, 1, 1, 1),
            base_channels=8,
            classes=3,
            input_shape=(32, 32, 3),
            weights=tmp_path / "m.keras",
        ),
    ):
        assert get_preprocessing(other) == PREPROCESSING
    grey = ResNeXt(blocks=(1, 1, 1, 1), groups=4, base_channels=8, classes=3, input_shape=(32, 32, 1))
    assert get_preprocessing(grey).mean == pytest.approx([sum(Preprocessing().mean) / 3])
    with pytest.raises(ValueError, match="must take images of 3 channels, for which"):
        set_preprocessing(grey, PREPROCESSING)
    with pytest.raises(ValueError, match="preprocessing='imagenet' must be a Preprocessing"):
        set_preprocessing(model, "imagenet")


def test_the_command_line_downloads_with_progress(server, files, tmp_path):
    """A real process; the table is the one thing replaced."""
    from PIL import Image

    Image.fromarray(np.zeros((40, 40, 3), "uint8")).save(tmp_path / "p.png")
    row = published.PUBLISHED[0]
    code = f"""
from keras_resnext.weights import published
from keras_resnext.weights.published import *
published.PUBLISHED = ({row!r},)
from keras_resnext.cli import main
main(["predict", "imagenet/resnext26_32x4d", {str(tmp_path / "p.png")!r}])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert row.file in result.stderr
    assert result.stdout.count("%") == 5
    server.shutdown()
    server.server_close()
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
    next((tmp_path / "keras").rglob("*.pth")).unlink()
    failed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (failed.returncode, failed.stdout, failed.stderr.count("\n")) == (2, "", 1), failed.stderr


def test_public_functions_are_documented():
    for name in (
        "from_pretrained",
        "list_pretrained",
        "get_preprocessing",
        "set_preprocessing",
        "save_pytorch_weights",
    ):
        assert len(getattr(keras_resnext, name).__doc__) > 60
