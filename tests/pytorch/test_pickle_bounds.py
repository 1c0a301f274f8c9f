"""What a pickle builds is data, within bounds of time and memory."""

from __future__ import annotations

import contextlib
import pickle
import time
import tracemalloc
from typing import Any

import pytest

from keras_resnext.pytorch.rebuild import Namespace
from keras_resnext.pytorch.storage import FormatError
from tests.pytorch.making import (
    STORAGE,
    machine,
    short,
)
from tools.fuzz_checkpoint.targets import visit

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")


def test_cycles_survive() -> None:
    value: list[Any] = []
    mapping = {"self": value}
    value += [value, mapping, (value,)]
    for protocol in range(1, 6):
        read = machine(pickle.dumps(value, protocol))
        assert read[0] is read
        assert read[1]["self"] is read
        assert read[2][0] is read
    assert visit(read) == 3


def test_metadata_of_ordered_dict_is_dropped() -> None:
    read = machine(b"ccollections\nOrderedDict\n)R}" + short("items") + b"K\x01sb.")
    assert read == {}
    assert not vars(read)
    assert callable(read.items)


def test_attributes_of_a_namespace_touch_no_object() -> None:
    read = machine(b"cargparse\nNamespace\n)\x81}" + short("__class__") + b"K\x01sb.")
    assert type(read) is Namespace
    assert read.attributes == {"__class__": 1}


BOMBS = {
    "DAG of 8**20000 leaves": b"]q\x00" + b"(h\x00h\x00h\x00h\x00h\x00h\x00h\x00h\x00tq\x00" * 20_000 + b".",
    "DAG of pairs": b"K\x01q\x00" + b"h\x00h\x00\x86q\x00" * 60_000 + b".",
    "depth of tuples": b")" + b"\x85" * 300_000 + b".",
    "depth of lists": b"]q\x00" + b"]q\x01h\x00ah\x01q\x00" * 100_000 + b".",
    "copied lists": b"(" + b"K\x01" * 100_000 + b"tq\x00" + b"cbuiltins\nlist\nh\x00\x85R" * 10_000 + b".",
    "copied text": b"X\x00\x00\x10\x00" + b"x" * (1 << 20) + b"q\x00c_codecs\nencode\nq\x01"
    + (b"h\x01h\x00" + short("latin1") + b"\x86R") * 50_000 + b".",
    "sets": b"\x8f" * 300_000 + b".",
    "opcodes": b"N" * 3_000_000 + b".",
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs_stay_cheap(bomb: str) -> None:
    measured = bomb.startswith("copied")  # the others cost what their opcodes cost, and tracing memory slows them down
    if measured:
        tracemalloc.start()
    start = time.perf_counter()
    with contextlib.suppress(FormatError):
        machine(BOMBS[bomb])
    assert time.perf_counter() - start < 15
    if measured:
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("size", "stride", "offset", "message"),
    [
        ((12,), (1,), 1, "does not fit"),
        ((13,), (1,), 0, "does not fit"),
        ((13,), (0,), 0, "does not fit"),
        ((1 << 40, 1 << 40), (0, 0), 0, "does not fit"),
        ((2, 2), (11, 1), 0, "does not fit"),
        ((2,), (-1,), 1, "integers from 0"),
        ((-2,), (1,), 1, "integers from 0"),
        ((2,), (1,), -1, "integers from 0"),
        ((2,), (1 << 62,), 0, "does not fit"),
        ((2,), (1 << 63,), 0, "integers from 0"),
        ((2, 2), (1,), 0, "tuples of one length"),
        ((1,) * 33, (1,) * 33, 0, "tuples of one length"),
        ((True,), (1,), 0, "integers from 0"),
        ((0, 1 << 62), (1, 1), 0, "ValueError"),
        ((0,), (1,), 13, "does not fit"),
    ],
)
def test_views_outside_of_the_storage(size: Any, stride: Any, offset: Any, message: str) -> None:
    def pickled(value: Any) -> bytes:
        return pickle.dumps(value, 2)[2:-1]

    call = (
        b"ctorch._utils\n_rebuild_tensor\n((" + STORAGE + b"K\x0ctQ" + pickled(offset) + pickled(size) + pickled(stride)
    )
    with pytest.raises(FormatError, match=message):
        machine(call + b"tR.")
