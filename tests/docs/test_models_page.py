"""The page of models says what the tables say."""

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_page_is_up_to_date() -> None:
    tool = runpy.run_path(str(ROOT / "tools" / "make_models_page.py"))
    written = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    assert written == tool["render"](), "run python tools/make_models_page.py"
