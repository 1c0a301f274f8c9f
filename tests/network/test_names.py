"""Finding architectures and weights by patterns, and what near misses and timm's words are told."""

import pytest
from typer.testing import CliRunner

from keras_resnext import create, from_pretrained, list_architectures, list_pretrained
from keras_resnext.cli import app


def test_patterns():
    assert list_architectures("*aa*d_32x8d") == ["seresnextaa101d_32x8d", "seresnextaa201d_32x8d"]
    assert set(list_architectures("*D_32x4d")) >= {"resnext50d_32x4d", "seresnext26d_32x4d"}
    of_timm = list_pretrained("timm/*seresnextaa*")
    assert of_timm
    assert all(name.startswith("timm/seresnextaa") for name in of_timm)
    assert "timm/resnext50_32x4d.a1h_in1k" in list_pretrained("resnext50_32x4d.a1h*")
    assert list_architectures("nothing*") == list_pretrained("nothing*") == []
    with pytest.raises(ValueError, match="pattern=5 must be a text"):
        list_architectures(5)


def test_list_takes_a_pattern():
    told = CliRunner().invoke(app, ["list", "*seresnextaa101*"])
    lines = told.stdout.split()
    assert told.exit_code == 0
    assert "seresnextaa101d_32x8d" in lines
    assert "resnext50_32x4d" not in lines
    missed = CliRunner().invoke(app, ["list", "*resnext50_32d4x*"])
    assert isinstance(missed.exception, ValueError)
    assert "fits no architecture and no weights; did you mean resnext50_32x4d" in str(missed.exception)


def test_near_misses():
    with pytest.raises(
        ValueError, match="name='resnext50-32x4d' is no known architecture; did you mean resnext50_32x4d"
    ):
        create("resnext50-32x4d")
    with pytest.raises(ValueError, match=r"did you mean timm/resnext50_32x4d\.a1h_in1k"):
        from_pretrained("timm/resnext50_32x4d.a1h_1nk")


@pytest.mark.parametrize(
    ("word", "ours"),
    [("num_classes", "classes=N"), ("pretrained", "weights='timm'"), ("in_chans", "input_shape=")],
)
def test_timms_words_are_translated(word, ours):
    with pytest.raises(TypeError, match=f"{word} is timm's word; here it is {ours}"):
        create("resnext50_32x4d", **{word: 1})
