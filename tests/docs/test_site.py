"""The documentation as a site: it builds without a warning, loads nothing from elsewhere, and has every public name."""

import importlib
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

import keras_resnext
from keras_resnext.cli import app

DOCS = Path(__file__).parents[2] / "docs"
LOADS = re.compile(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"([^\"]+)|<link\b[^>]*\bhref=\"([^\"]+)")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", str(folder / "cache")]
    built = subprocess.run(
        [*command, str(DOCS), str(folder / "html")],
        capture_output=True,
        text=True,
        env={**os.environ, "KERAS_BACKEND": "tensorflow"},
    )
    assert built.returncode == 0, built.stderr[-3000:]
    return folder / "html"


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        for script, link in LOADS.findall(page.read_text(encoding="utf-8")):
            assert not re.match(r"(https?:)?//", script or link), (page.name, script or link)
    for sheet in site.rglob("*.css"):
        assert not re.search(r"@import|url\([\"']?(https?:)?//", sheet.read_text(encoding="utf-8")), sheet.name


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    reference = "".join(page.read_text(encoding="utf-8") for page in (site / "api").glob("*.html"))
    names = {f"keras_resnext.{name}" for name in keras_resnext.__all__}
    for module in ("data", "export", "pytorch", "serving", "training"):
        names |= {f"keras_resnext.{module}.{n}" for n in importlib.import_module(f"keras_resnext.{module}").__all__}
    for name in sorted(names):
        module, _, attribute = name.rpartition(".")
        thing = getattr(importlib.import_module(module), attribute)
        if inspect.isfunction(thing) or inspect.isclass(thing):
            places = (name, f"keras_resnext.{attribute}", f"{thing.__module__}.{thing.__qualname__}")
            assert any(f'id="{place}"' in reference for place in places), name


def test_every_command_is_in_the_reference(site: Path) -> None:
    page = (site / "api" / "command_line.html").read_text(encoding="utf-8")

    def check(command: Any, path: str) -> None:
        for name, inner in getattr(command, "commands", {}).items():
            check(inner, f"{path}-{name}")
        if not hasattr(command, "commands"):
            assert f'id="{path}"' in page, path
            for parameter in command.params:
                assert all(option in page for option in {*parameter.opts} - {"--help"} if option[0] == "-"), (
                    parameter.opts
                )

    check(typer.main.get_command(app), "keras-resnext")
