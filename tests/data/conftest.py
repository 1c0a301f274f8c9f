"""Models and exports that tests share, made once."""

import pytest

from keras_resnext.data import (
    read_listing,
)
from tests import references  # noqa: F401  declares what torchvision needs to import
from tests.data.data_material import make_image


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Three classes of JPEG and PNG files, one of them grey, one CMYK."""
    root = tmp_path_factory.mktemp("images")
    for label in ("cat", "dog", "owl"):
        (root / label / "more").mkdir(parents=True)
        for i in range(3):
            make_image().save(root / label / f"{i}.jpg", quality=95)
        make_image().save(root / label / "more" / "3.png")
        (root / label / "notes.txt").write_text("no image")
    make_image().convert("L").save(root / "cat" / "grey.jpg")
    make_image().convert("CMYK").save(root / "dog" / "cmyk.jpg")
    return root


@pytest.fixture(scope="session")
def listing(folder):
    return read_listing(folder)
