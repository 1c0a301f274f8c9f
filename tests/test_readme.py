"""The README's code runs, as it stands there."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from keras_resnext import published
from keras_resnext.download import sha256
from tests import references
from tests.file_server import serve

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the checkpoint has a head of 1000 classes and the model one of 10")
def test_python_blocks(tmp_path, monkeypatch):
    """As they stand there; the published file comes from a server on loopback."""
    state = references.torchvision_model("resnext50_32x4d").state_dict()
    torch.save(state, tmp_path / "my_checkpoint.pth")
    save_file(state, tmp_path / "my_finetuned.safetensors")
    row = published.find_published("torchvision/resnext50_32x4d")
    name = f"resnext50_32x4d-{sha256(tmp_path / 'my_checkpoint.pth')[:8]}.pth"
    (tmp_path / name).symlink_to("my_checkpoint.pth")
    Image.effect_noise((320, 240), 90).convert("RGB").save(tmp_path / "cat.jpg")
    with serve(tmp_path) as server:
        monkeypatch.setattr(published, "PUBLISHED", (replace(row, url=server.url(name)),))
        monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
        monkeypatch.chdir(tmp_path)
        run_blocks()
    assert list(server.requests.values()) == [1]
    assert (tmp_path / "savedmodels/resnext50/1/saved_model.pb").is_file()
    assert Image.open(tmp_path / "cat.grad_cam.png").width > 300
    assert torch.load(tmp_path / "back.pth", weights_only=True).keys() == state.keys()


def run_blocks():
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) >= 3
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)


def test_exactly_two_commands_come_first():
    commands = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    assert commands[:2] == ["pip install . && keras-resnext quickstart\n", "pip install -e '.[test]' && pytest\n"]
    assert README.index("```sh") < README.index("## ")


def test_every_verb_exists():
    from keras_resnext.cli import app

    verbs = {command.name or command.callback.__name__ for command in app.registered_commands}
    assert set(re.findall(r"^keras-resnext (\w+)", README, re.MULTILINE)) <= verbs
