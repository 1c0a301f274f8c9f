"""A pickle executes nothing, whatever it says."""

from __future__ import annotations

import os
import pickle
import re
import sys
from pathlib import Path

import pytest

from keras_resnext.pytorch.unpickler import MAX_INT_BITS, MAX_MARKS
from tests.pytorch.making import (
    FORMATS,
    containers,
    refuse,
    rezip,
    save,
    short,
)
from tools.fuzz_checkpoint.grammar import GADGETS

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")


COMMAND = "touch MARKER"
EVENTS: list[str] = []  # what Python itself says it did: an audit hook cannot be taken away again, so there is one
WATCHED = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "subprocess.Popen",
    "exec",
    "compile",
    "import",
    "pickle.find_class",
)
sys.addaudithook(lambda event, _: EVENTS.append(event) if event in WATCHED else None)
ATTACKS: dict[str, tuple[bytes, str]] = {
    "os.system": (b"cos\nsystem\n" + short(COMMAND) + b"\x85R.", r"os\.system"),
    "posix.system": (b"cposix\nsystem\n" + short(COMMAND) + b"\x85R.", r"posix\.system"),
    "nt.system": (b"cnt\nsystem\n" + short(COMMAND) + b"\x85R.", r"nt\.system"),
    "eval": (b"cbuiltins\neval\n" + short("open('MARKER','w')") + b"\x85R.", r"builtins\.eval"),
    "python 2 eval": (b"c__builtin__\neval\n" + short("open('MARKER','w')") + b"\x85R.", r"builtins\.eval"),
    "exec": (b"cbuiltins\nexec\n" + short("open('MARKER','w')") + b"\x85R.", r"builtins\.exec"),
    "open": (b"cbuiltins\nopen\n" + short("MARKER") + short("w") + b"\x86R.", r"builtins\.open"),
    "subprocess": (b"csubprocess\nPopen\n" + short(COMMAND) + b"\x85R.", r"subprocess\.Popen"),
    "partial": (b"cfunctools\npartial\ncos\nsystem\n\x85R.", r"functools\.partial"),
    "getattr": (b"cbuiltins\ngetattr\ncos\nsystem\n" + short("x") + b"\x86R.", r"builtins\.getattr"),
    "getattr of a known name": (b"cbuiltins\ngetattr\nctorch\nSize\n" + short("x") + b"\x86R.", r"builtins\.getattr"),
    "dotted STACK_GLOBAL": (short("torch") + short("os.system") + b"\x93N\x85R.", r"torch\.os\.system"),
    "dunder path": (short("collections") + short("OrderedDict.__init__.__globals__") + b"\x93.", "__globals__"),
    "STACK_GLOBAL": (short("os") + short("system") + b"\x93" + short(COMMAND) + b"\x85R.", r"os\.system"),
    "STACK_GLOBAL of numbers": (b"K\x01K\x02\x93.", "a name that is no text"),
    "INST": (b"(" + short(COMMAND) + b"ios\nsystem\n.", "opcode INST"),
    "OBJ": (b"(ccollections\nOrderedDict\n" + short(COMMAND) + b"o.", "opcode OBJ"),
    "EXT1": (b"\x82\x01.", "opcode EXT1"),
    "EXT2": (b"\x83\x01\x00.", "opcode EXT2"),
    "EXT4": (b"\x84\x01\x00\x00\x00.", "opcode EXT4"),
    "NEWOBJ_EX": (b"ccollections\nOrderedDict\n)}\x92.", "opcode NEWOBJ_EX"),
    "NEWOBJ of text": (short("x") + b")\x81.", "calls an object of type str"),
    "NEWOBJ of a storage class": (b"ctorch\nFloatStorage\n)\x81.", r"calls torch\.FloatStorage"),
    "REDUCE of a result": (b"ccollections\nOrderedDict\n)R)R.", "calls an object of type OrderedDict"),
    "REDUCE with a list": (b"ccollections\nOrderedDict\n]R.", "something other than a tuple"),
    "BUILD of a global": (b"ccollections\nOrderedDict\n}" + short("call") + b"K\x01sb.", "object of type Global"),
    "BUILD of a dict": (b"}}b.", "state of an object of type dict"),
    "BUILD of a list": (b"]}b.", "state of an object of type list"),
    "BUILD of numpy.ndarray": (b"cnumpy\nndarray\n}b.", "state of an object of type Global"),
    "BUILD a namespace with slots": (b"cargparse\nNamespace\n)\x81N}\x86b.", "state must be a dictionary"),
    "persistent id text": (b"Px\n.", "opcode PERSID"),
    "persistent id module": (b"(" + short("module") + b"NNNNtQ.", "no storage"),
    "copyreg": (b"ccopy_reg\n_reconstructor\n(cbuiltins\nobject\nh\x00NtR.", r"builtins\.object|never set"),
    "torch.load": (b"ctorch.serialization\nload\n" + short("MARKER") + b"\x85R.", r"torch\.serialization\.load"),
    "numpy.load": (b"cnumpy\nload\n" + short("MARKER") + b"\x85R.", r"numpy\.load"),
    "codecs": (b"c_codecs\nencode\n" + short("x") + short("rot13") + b"\x86R.", "a text and 'latin1'"),
    "object dtype": (b"cnumpy\ndtype\n" + short("O8") + b"\x85R.", r"refers to numpy\.dtype"),
    "dtype from a list": (b"cnumpy\ndtype\n]\x85R.", "no plain number"),
    "tensor without storage": (b"ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x00))NNtR.", "without a storage"),
    "tensor subclass": (b"ctorch._tensor\n_rebuild_from_type_v2\n(ctorch\ndevice\nN)NtR.", "_rebuild_from_type_v2"),
    "unhashable key": (b"}]K\x01s.", "type list as a key"),
    "unhashable element": (b"cbuiltins\nset\n]]a\x85R.", "type list as a key"),
    "big integer key": (b"}\x8a\x0a" + b"\x11" * 10 + b"K\x01s.", "beyond 64 bits as a key"),
    "a wide tuple as a key": (b"}(" + b"N" * 100 + b"tK\x01s.", "type tuple as a key"),
    "long integer": (b"\x8b\x00\x10\x00\x00" + b"\x01" * 4096 + b".", f"more than {MAX_INT_BITS} bits"),
    "long decimal": (b"I" + b"9" * 4000 + b"\n.", "opcode INT"),
    "longer decimal": (b"L" + b"9" * 100_000 + b"L\n.", "ValueError|opcode LONG"),
    "integer beyond the file": (b"\x8b\xff\xff\xff\x7f.", "ValueError"),
    "text beyond the file": (b"X\xff\xff\xff\xff.", "ValueError"),
    "bytes beyond everything": (b"\x8e" + b"\xff" * 8 + b".", "ValueError"),
    "frame beyond the file": (b"\x95" + b"\xff" * 8, "ValueError"),
    "marks": (b"(" * 100_000, f"more than {MAX_MARKS} containers"),
    "empty stack": (b".", "empty stack"),
    "unset memo": (b"h\x07.", "never set"),
    "unopened container": (b"t.", "never opened"),
    "odd items": (b"}(K\x01u.", "a key without a value"),
    "no STOP": (b"N", "ValueError"),
    "unknown opcode": (b"\xfe.", "ValueError"),
    "terminal escapes": (b"cos\n\x1b[2J\n.", r"\\x1b"),
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_hostile_pickles_execute_nothing(tmp_path: Path, attack: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where the marker would appear
    pickled, match = ATTACKS[attack]
    EVENTS.clear()
    for content in containers(pickled).values():
        assert "\x1b" not in refuse(tmp_path / "x.pth", content, match)
    assert EVENTS == []
    assert os.listdir(tmp_path) == ["x.pth"]


def test_gadgets_of_the_public_collections_are_refused_by_name(tmp_path: Path) -> None:
    EVENTS.clear()
    for name in GADGETS:
        module, _, last = name.rpartition(".")
        for call in (b"c" + f"{module}\n{last}\n".encode(), short(module) + short(last) + b"\x93"):
            refuse(tmp_path / "x.pth", rezip(b"\x80\x04" + call + short("x") + b"\x85R."), re.escape(name))
    assert EVENTS == []


def test_the_attack_is_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bytes do run under pickle.load, so the test above proves something."""
    monkeypatch.chdir(tmp_path)
    EVENTS.clear()
    pickle.loads(ATTACKS["posix.system"][0])
    assert (tmp_path / "MARKER").exists()
    assert {"pickle.find_class", "os.system"} <= set(EVENTS)


@pytest.mark.parametrize("form", FORMATS)
def test_pickled_module_is_named(tmp_path: Path, form: str) -> None:
    path = save(tmp_path / "x.pth", torch.nn.Linear(2, 2), form)
    refuse(path, path.read_bytes(), r"torch\.nn\.modules\.linear\.Linear.*save model\.state_dict\(\)")
