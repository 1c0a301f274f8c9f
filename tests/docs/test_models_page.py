"""The page of models says what the tables say."""

import runpy
from pathlib import Path

from keras_resnext.network.architectures import ARCHITECTURES
from keras_resnext.weights.published import PUBLISHED

ROOT = Path(__file__).parents[2]


def test_page_is_up_to_date() -> None:
    tool = runpy.run_path(str(ROOT / "tools" / "make_models_page.py"))
    written = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    assert written == tool["render"](), "run python tools/make_models_page.py"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"{len(ARCHITECTURES)} architectures and {len(PUBLISHED)} published weights" in readme
