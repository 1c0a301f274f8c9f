"""The README's code runs, as it stands there."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests import references

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_python_blocks(tmp_path, monkeypatch):
    state = references.torchvision_model("resnext50_32x4d").state_dict()
    torch.save(state, tmp_path / "resnext50_32x4d-7cdf4587.pth")
    save_file(state, tmp_path / "my_finetuned.safetensors")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) >= 3
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert (tmp_path / "savedmodels/resnext50/1/saved_model.pb").is_file()


def test_exactly_two_commands_come_first():
    commands = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    assert commands[:2] == ["pip install . && keras-resnext quickstart\n", "pip install -e '.[test]' && pytest\n"]
    assert README.index("```sh") < README.index("## ")


def test_every_verb_exists():
    from keras_resnext.cli import app

    verbs = {command.name or command.callback.__name__ for command in app.registered_commands}
    assert set(re.findall(r"^keras-resnext (\w+)", README, re.MULTILINE)) <= verbs
