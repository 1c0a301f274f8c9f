"""Wrong arguments of the clients are ValueErrors that name argument and rule, before anything is sent."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keras_resnext.serving import Client, GrpcClient
from tests.serving.material import IMAGES

pytest.importorskip("tensorflow_serving")


@pytest.fixture
def make(kind: Any) -> Iterator[Callable[..., Any]]:
    """Makes clients of one kind; where they ask, nobody answers."""
    address = "http://127.0.0.1:9" if kind is Client else "127.0.0.1:9"
    with ExitStack() as stack:
        yield lambda model="net", **options: stack.enter_context(kind(address, model, **options))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (IMAGES[0], r"images of shape \(32, 32, 3\) and type uint8 must be .* image\[None\]"),
        (IMAGES[:0], "N ≥ 1"),
        (IMAGES[..., :1], r"\(3, 32, 32, 1\)"),
        (IMAGES > 3, "type bool"),
        (np.array(["cat.jpg"]), "must be numbers"),
    ],
)
def test_wrong_arrays(make: Any, images: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make().predict(images)


def test_wrong_images(make: Any, tmp_path: Path) -> None:
    for samples in (b"one", "one.png", tmp_path, []):
        for call in (make().predict_images, make().classify):
            with pytest.raises(ValueError, match="must be a list of at least one path or bytes object"):
                call(samples)
    with pytest.raises(FileNotFoundError):
        make().classify([tmp_path / "none.png"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": ""}, "model='' must be a name"),
        ({"model": "a/b"}, "without / and :"),
        ({"label": "a:b"}, "label='a:b'"),
        ({"version": -1}, "version=-1 must be"),
        ({"version": "3"}, "version='3' must be"),
        ({"version": 3, "label": "stable"}, "give one of them"),
        ({"timeout": 0}, "timeout=0 must be positive"),
        ({"timeout": float("nan")}, "timeout=nan must be positive"),
        ({"retries": -1}, "retries=-1 must be"),
        ({"retries": 1.5}, "retries=1.5 must be"),
        ({"retries": None}, "retries=None must be"),
    ],
)
def test_wrong_options(make: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_wrong_addresses() -> None:
    for address in ("localhost:8501", "ftp://localhost", "http://", "http://localhost:port", "http://host?a=b", ""):
        with pytest.raises(ValueError, match=r"address=.* must be http://HOST:PORT"):
            Client(address, "net")
    for address in ("http://localhost:8500", "", "a b"):
        with pytest.raises(ValueError, match=r"address=.* must be HOST:PORT, without http://"):
            GrpcClient(address, "net")


def test_both_take_the_same_arguments_and_grpc_credentials_too() -> None:
    rest, grpc = (inspect.signature(kind).parameters for kind in (Client, GrpcClient))
    assert {name: value for name, value in grpc.items() if name != "credentials"} == dict(rest)
    names = ["address", "model", "version", "label", "timeout", "retries", "headers"]
    assert list(rest) == names
    assert [name for name in grpc if grpc[name].kind is inspect.Parameter.KEYWORD_ONLY] == [*names[2:], "credentials"]
