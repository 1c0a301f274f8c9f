"""Bytes changed in small checkpoints that torch wrote, mostly where parsers read lengths and names."""

from __future__ import annotations

import argparse
import io
import random
import tempfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np

from keras_resnext.pytorch.checkpoint import write_checkpoint
from keras_resnext.pytorch.rebuild import NAMES

Sample = tuple[bytes, Callable[[bytes], bytes]]  # what is mutated, and what makes a file of it

EDGES = [(1 << bits) + step for bits in (0, 7, 8, 15, 16, 31, 32, 62, 63) for step in (-1, 0, 1)]
HOSTILE = ["os.system", "builtins.eval", "builtins.getattr"]
PIECES = rb""")R )\x81 }b ]a 0 2 ( t R b Q \x85 \x86 \x87 q\x01 h\x00 h\x01 \x93 \x94 \x95 u s e a \x8f \x90 \x91 d l N
} ] K\xff J\xff\xff\xff\xff \x8a\x09\xff\xff\xff\xff\xff\xff\xff\xff\x7f \x8b\xff\xff\xff\x7f I99999999999999999999\n
S'\\xff'\n P1\n \x82\x01 X\x06\x00\x00\x00latin1 X\x02\x00\x00\x00f8"""
FRAGMENTS = [
    *(b"c" + "\n".join(name.rsplit(".", 1)).encode() + b"\n" for name in (*NAMES, *HOSTILE)),
    *(piece.decode("unicode_escape").encode("latin-1") for piece in PIECES.split()),
    *(b"h\x00h\x00\x86q\x00" * 50, b"\x85" * 400, b"(" * 1200, b"\x86h\x00" * 100),
]


def mutate(rng: random.Random, data: bytes) -> bytes:
    """The bytes after one to six changes, most of them of the kind that parsers mistake."""
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 2, 3, 6])):
        size = len(changed)
        # Heads and tails hold the structure, the middle mostly numbers.
        at = rng.choice([rng.randint(0, size), rng.randint(0, min(size, 600)), rng.randint(max(0, size - 200), size)])
        kind = rng.randrange(9)
        if kind == 0 and at < size:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < size:
            changed[at] = rng.randrange(256)
        elif kind == 2:
            width = rng.choice([1, 2, 4, 8])
            changed[at : at + width] = (rng.choice(EDGES) & ((1 << 8 * width) - 1)).to_bytes(width, "little")
        elif kind == 3:
            changed[at:at] = rng.choice(FRAGMENTS)
        elif kind == 4:
            fragment = rng.choice(FRAGMENTS)
            changed[at : at + len(fragment)] = fragment
        elif kind == 5:
            del changed[at : at + rng.choice([1, 1, 2, 4, 30])]
        elif kind == 6:
            changed[at:at] = changed[(start := rng.randint(0, size)) : start + rng.choice([1, 2, 8, 60])]
        elif kind == 7 and rng.random() < 0.2:
            del changed[at:]
        elif kind == 8:
            digits = [i for i in range(min(size, 2000)) if 48 <= changed[i] <= 57]
            if digits:
                i = rng.choice(digits)
                changed[i : i + 1] = rng.choice([b"0", b"9", b"-1", b"99999999999999999999", b"1e9"])
    return bytes(changed)


def rezip(pickled: bytes) -> bytes:
    """A checkpoint around another data.pkl, so that its mutations survive the zip format."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")
        for key in range(8):
            archive.writestr(f"archive/data/{key}", bytes(range(96)))
    return buffer.getvalue()


def samples(safetensors: bool = True) -> list[Sample]:
    """Small checkpoints of every format, with all that the reader knows in them."""
    import torch

    state = OrderedDict(conv=torch.arange(24.0).reshape(2, 3, 2, 2), bn=torch.ones(4).half()[::2], n=torch.tensor(7))
    wrapped = {
        "state_dict": torch.nn.BatchNorm2d(2).state_dict(),
        "meta": {"lr": np.float64(0.1), "seed": np.arange(4), "set": {1, "a"}, "raw": b"\xff\x00"},
        "args": argparse.Namespace(lr=0.1, size=torch.Size([2, 3]), device=torch.device("cpu"), type=torch.bfloat16),
        "weights": [torch.nn.Parameter(torch.ones(2, 2).bfloat16())],
    }
    whole: list[Sample] = []
    for value in (state, wrapped):
        for new in (True, False):
            buffer = io.BytesIO()
            torch.save(value, buffer, _use_new_zipfile_serialization=new)
            whole.append((buffer.getvalue(), bytes))
            if new:
                with zipfile.ZipFile(buffer) as archive:
                    name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
                    whole.append((archive.read(name), rezip))
    with tempfile.TemporaryDirectory() as folder:
        for suffix in (".pth", ".safetensors")[: 1 + safetensors]:
            path = Path(folder, f"sample{suffix}")
            write_checkpoint(path, {name: tensor.numpy() for name, tensor in state.items()})
            whole.append((path.read_bytes(), bytes))
    return whole
