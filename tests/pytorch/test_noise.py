"""Whatever bytes a file has, reading ends in a result or in CheckpointError."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keras_resnext.pytorch.checkpoint import CheckpointError, read_checkpoint
from tests.pytorch.making import (
    PREAMBLE,
)
from tools.fuzz_checkpoint import __main__ as fuzz

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")


# Cases of the fuzzer, 20,000 in all, by how far they go; `python tools/fuzz_checkpoint` runs as many as one likes.
CASES = {"read": 17_400, "torch": 2_400, "info": 150, "load": 30, "convert": 20}
LASTING = {"read": "read", "torch": "both, equal", "info": "described", "load": "loaded", "convert": "converted"}


@pytest.mark.parametrize("through", CASES)
def test_hostile_files_end_in_a_result_or_in_our_error(through: str, tmp_path: Path) -> None:
    lines: list[str] = []
    bad, ends = fuzz.run(CASES[through], 1, through, fuzz.makers(through), tmp_path, None, lines.append, seconds=10)
    assert not bad, lines
    assert ends[LASTING[through]] > CASES[through] / 100


@settings(max_examples=800, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(
    tail=st.binary(max_size=200),
    head=st.sampled_from([b"", b"\x80\x02", b"PK\x03\x04", PREAMBLE, b"\x08" + bytes(7) + b"{"]),
)
def test_noise_ends_in_our_error(tmp_path_factory: pytest.TempPathFactory, head: bytes, tail: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "noise"
    path.unlink(missing_ok=True)
    path.write_bytes(head + tail)
    with pytest.raises(CheckpointError):
        read_checkpoint(path)
