"""Whatever bytes a file has, reading ends in a result or in CheckpointError."""

from __future__ import annotations

import contextlib
import random
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keras_resnext.pytorch.checkpoint import CheckpointError, read_checkpoint
from tests.pytorch.making import (
    PREAMBLE,
    fuzz,
)

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")


@pytest.fixture(scope="module")
def samples() -> list[Any]:
    return list(fuzz.samples())


@settings(max_examples=1200, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(seed=st.integers(0, 1 << 62))
def test_mutations_end_in_a_result_or_in_our_error(
    samples: list[Any], tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    rng = random.Random(seed)
    source, finish = rng.choice(samples)
    path = tmp_path_factory.getbasetemp() / "mutated"
    path.unlink(missing_ok=True)
    path.write_bytes(finish(fuzz.mutate(rng, source)))
    start = time.perf_counter()
    with contextlib.suppress(CheckpointError):
        fuzz.visit(read_checkpoint(path).data)
    assert time.perf_counter() - start < 5


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
