"""What a file, a name or a server says reaches the terminal as text: nothing in it moves a cursor or turns a line."""

import json
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from keras_resnext import ResNeXt, cli
from keras_resnext.progress import Bar
from keras_resnext.serving.model_base import label_version
from keras_resnext.terminal import PlainConsole, printable, printable_json
from tests.cli.test_models import make_version

CLEAR, TURN = "\x1b[2J\x1b]0;title\x07", "\u202egnp.exe\x9b31m"
EVIL = f"{CLEAR}{TURN}"
SHOWN = r"\x1b[2J\x1b]0;title\x07\u202egnp.exe\x9b31m"


def run(*arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    for text in (captured.out, captured.err):
        assert all(letter.isprintable() or letter == "\n" for letter in text), repr(text)
    return stop.value.code or 0, captured.out, captured.err


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (EVIL, SHOWN),
        ("Bär 熊 🐻 \\ [bold]", "Bär 熊 🐻 \\ [bold]"),
        ("a\nb\r\tc\u2028d\u200b", r"a\nb\r\tc\u2028d\u200b"),
        ("\udcff\ufeff\U000e0041", r"\udcff\ufeff\U000e0041"),
    ],
)
def test_printable(text, shown):
    assert printable(text) == printable(shown) == shown
    assert json.loads(printable_json([text])) == [text]


def test_consoles_and_bars(capsys):
    """Text, cells and progress of all that the commands print by rich."""
    table = Table("one", title=EVIL)
    table.add_row(EVIL)
    PlainConsole(width=200).print(EVIL, table)
    terminal = Console(force_terminal=True, width=200, color_system=None)
    with Bar(EVIL, 2, terminal) as bar:
        bar.advance(1, EVIL)
    out = capsys.readouterr().out
    assert out.count(SHOWN.replace("[", "[")) >= 4
    for letter in "\x07\x9b\u202e":
        assert letter not in out
    assert "\x1b[2J" not in out


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A model, its hostile labels, and an image with a hostile name."""
    monkeypatch.setenv("COLUMNS", "200")
    options = dict(blocks=(1, 1), strides=(2, 2), dilations=(1, 1), num_stages=2, groups=4, width_per_group=2)
    model = ResNeXt(**options, stem="cifar", stem_channels=8, base_channels=8, classes=2, input_shape=(8, 8, 3))
    model.save(tmp_path / "m.keras")
    (tmp_path / "labels.txt").write_text(f"{TURN}\nb\n", encoding="utf-8")
    Image.fromarray(np.zeros((8, 8, 3), "uint8")).save(tmp_path / f"{EVIL}\n2.png")
    return tmp_path


def test_labels_and_file_names(folder, capsys):
    image = folder / f"{EVIL}\n2.png"
    code, out, _ = run("predict", folder / "m.keras", image, capsys=capsys)
    assert code == 0
    assert printable(TURN) in out
    assert rf"{SHOWN}\n2.png" in out
    code, out, _ = run("predict", folder / "m.keras", image, "--json", capsys=capsys)
    found = json.loads(out)[0]
    assert found["image"] == str(image)
    assert TURN in [answer["class"] for answer in found["predictions"]]
    code, _, err = run("predict", folder / "m.keras", f"{image}.no", folder / f"{EVIL}.keras", capsys=capsys)
    assert (code, err.count("\n")) == (2, 1)
    code, out, _ = run("convert", folder / "m.keras", folder / f"{EVIL}.pth", capsys=capsys)
    assert code == 0
    assert f"{SHOWN}.pth" in out


def test_entries_of_a_checkpoint(folder, capsys):
    assert run("convert", folder / "m.keras", folder / "m.pth", capsys=capsys)[0] == 0
    state = torch.load(folder / "m.pth")
    torch.save({EVIL: {**state, f"{TURN}.weight": torch.zeros(3)}}, folder / "m.pth")
    code, out, _ = run("info", folder / "m.pth", capsys=capsys)
    assert code == 0
    assert out.count("\\x1b[2J") >= 1, out
    assert out.count("\\u202e") >= 2, out


def test_a_model_base(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "500")
    make_version(tmp_path, "net", 1, source=EVIL, created=EVIL, accuracy={"top1": 10**400, "top5": EVIL})
    make_version(tmp_path, EVIL.replace("/", ""), 2)
    (tmp_path / "net" / "1" / EVIL).touch()
    label_version(tmp_path / "net", "ü", 1)
    code, out, _ = run("models", "ls", tmp_path, capsys=capsys)
    assert code == 2  # a file is new
    assert out.count("gnp.exe") == 3
    (tmp_path / "net" / "1" / "manifest.json").write_text("[" * 100_000)
    assert run("models", "ls", tmp_path, capsys=capsys)[0] == 0
    code, _, err = run("models", "label", tmp_path / "net" / "1", EVIL, capsys=capsys)
    assert (code, err.count("\n")) == (2, 1)


def test_errors_and_warnings(monkeypatch, capsys):
    from keras_resnext.network import architectures

    def speak(_):
        warnings.warn(f"warned: {EVIL}", stacklevel=1)
        raise OSError(f"HTTP 500 {EVIL}\nkeras-resnext: all is well")

    monkeypatch.setattr(architectures, "list_architectures", speak)
    code, out, err = run("list", capsys=capsys)
    assert (code, out) == (2, "")
    assert err.splitlines() == [
        f"keras-resnext: warning: warned: {SHOWN}",
        f"keras-resnext: HTTP 500 {SHOWN} keras-resnext: all is well",
    ]
    assert run(EVIL, capsys=capsys)[0] == 2
