"""Digits as folders of images, written once a file."""

import pytest

from keras_resnext.data import read_listing
from keras_resnext.digits import write_folders
from keras_resnext.training import session


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    root = tmp_path_factory.mktemp("digits")
    write_folders(root)
    return root


@pytest.fixture(scope="module")
def few(digits):
    """Two hundred digits, and fifty to validate on."""
    whole, held_out = read_listing(digits / "train"), read_listing(digits / "val")
    return whole.select(range(0, len(whole), 7)), held_out.select(range(0, len(held_out), 7))


@pytest.fixture
def no_curves(monkeypatch):
    """Drawing takes longer than such an epoch."""
    monkeypatch.setattr(session, "draw_history", lambda *_: None)
