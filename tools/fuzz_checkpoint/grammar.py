"""Files made from the formats' grammars: whole pickles, zip archives and safetensors headers, some of whose parts lie.

Mutated bytes mostly break a file at once. What is made here is mostly well formed, so that it reaches what comes after
the parser: memoised values that double, huge counts, entries that overlap, sizes that disagree.
"""

from __future__ import annotations

import json
import pickle
import random
import re
import struct
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

from keras_resnext.pytorch.rebuild import NAMES
from keras_resnext.pytorch.storage import DTYPES
from keras_resnext.pytorch.torch_legacy import LEGACY_MAGIC, LEGACY_PROTOCOL

STORAGES = {f"torch.{row.storage}": row.numpy.itemsize for row in DTYPES.values()}
STORED = 96  # bytes in each storage
KEYS = ("conv1.weight", "state_dict", "model", "fc.bias", "layer1.0.conv2.weight", "meta", "a", "module." * 40 + "x")
# The names of the gadgets that the public collections have; none may be imported, whatever is done with them.
GADGETS = (
    "os.system",
    "posix.system",
    "subprocess.Popen",
    "builtins.eval",
    "builtins.exec",
    "builtins.getattr",
    "builtins.__import__",
    "builtins.compile",
    "builtins.open",
    "builtins.breakpoint",
    "operator.attrgetter",
    "operator.methodcaller",
    "functools.partial",
    "runpy.run_path",
    "code.InteractiveInterpreter",
    "pty.spawn",
    "socket.create_connection",
    "urllib.request.urlopen",
    "shutil.rmtree",
    "importlib.import_module",
    "pickle.loads",
    "marshal.loads",
    "types.FunctionType",
    "types.CodeType",
    "ctypes.CDLL",
    "webbrowser.open",
    "torch.load",
    "torch.hub.load",
    "torch.jit.unsupported_tensor_ops.execWrapper",
    "torch._inductor.codecache.compile_file",
    "torch.utils.collect_env.run",
    "torch.serialization.load",
    "numpy.testing._private.utils.runstring",
    "numpy.load",
    "numpy.f2py.crackfortran.getlincoef",
    "bdb.Bdb",
    "cProfile.run",
    "doctest.debug_script",
    "idlelib.pyshell.ModifiedInterpreter",
    "lib2to3.pgen2.pgen.ParserGenerator",
    "logging.config.listen",
    "pip.main",
    "pydoc.pipepager",
    "timeit.timeit",
    "trace.Trace",
    "uuid._get_command_stdout",
    "venv.create",
    "asyncio.create_subprocess_shell",
    "aiohttp.client.ClientSession",
)
NUMBERS = (0, 1, 2, 3, 7, 12, 255, 65536, -1, (1 << 31) - 1, 1 << 31, (1 << 63) - 1, 1 << 63, -(1 << 63), 1 << 80)


def _text(text: str) -> bytes:
    data = text.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def _int(number: int) -> bytes:
    if 0 <= number < 256:
        return b"K" + bytes([number])
    data = number.to_bytes(number.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def _name(name: str) -> bytes:
    module, _, last = name.rpartition(".")
    return f"c{module}\n{last}\n".encode()


class Pickler:
    """Writes one random value after another; `size` bounds the whole."""

    def __init__(self, rng: random.Random, size: int) -> None:
        self.rng, self.left, self.memo = rng, size, 0

    def value(self, depth: int = 0) -> bytes:
        self.left -= 1
        plain = self.left <= 0 or depth > 12
        kinds: list[Callable[[int], bytes]] = PLAIN if plain else PLAIN + NESTED
        data = self.rng.choice(kinds)(self, depth)  # type: ignore[call-arg]
        chance = self.rng.random()
        if chance < 0.1:
            data += self.put()
        elif chance < 0.11:
            data += self.value(depth + 1) + b"0"  # what is popped again
        return data

    def put(self) -> bytes:
        self.memo += 1
        return b"q" + bytes([self.memo - 1]) if self.memo <= 256 else b""

    def get(self, depth: int) -> bytes:
        return b"h" + bytes([self.rng.randrange(min(self.memo, 256))]) if self.memo else b"N"

    def atom(self, depth: int) -> bytes:
        return self.rng.choice((b"N", b"\x88", b"\x89", b")", b"]", b"}", b"\x8f", b"G" + self.rng.randbytes(8)))

    def number(self, depth: int) -> bytes:
        return _int(self.rng.choice(NUMBERS))

    def text(self, depth: int) -> bytes:
        return _text(self.rng.choice((*KEYS, "cpu", "latin1", "f4", "<", "\ud800", "\u202e", "\x1b[2J", "x" * 3000)))

    def data(self, depth: int) -> bytes:
        size = self.rng.choice((0, 1, 4, 96, 4000))
        return b"B" + struct.pack("<I", size) + self.rng.randbytes(size)

    def items(self, depth: int, most: int = 6) -> bytes:
        return b"".join(self.value(depth + 1) for _ in range(self.rng.randrange(most)))

    def sequence(self, depth: int) -> bytes:
        opening, closing = self.rng.choice(((b"(", b"t"), (b"](", b"e"), (b"\x8f(", b"\x90"), (b"(", b"\x91")))
        return opening + self.items(depth) + closing

    def mapping(self, depth: int) -> bytes:
        pairs = (self.text(depth) + self.value(depth + 1) for _ in range(self.rng.randrange(6)))
        return b"}(" + b"".join(pairs) + b"u"

    def doubled(self, depth: int) -> bytes:
        """A value that doubles through the memo, a few or very many times."""
        data = self.value(depth + 1)
        for _ in range(self.rng.choice((1, 2, 8, 40))):
            if self.memo > 250:
                break
            index = self.memo
            joined = self.rng.choice((b"\x86", b"\x86\x81", b"\x86R"))
            data += self.put() + b"h" + bytes([index]) + joined
        return data

    def repeated(self, depth: int) -> bytes:
        """One value named again and again, as an argument of each of many calls."""
        if self.memo > 250:
            return b"N"
        index = self.memo
        call = self.rng.choice((b"\x85", b"\x85" + self.name(depth) + b"h" + bytes([index]) + b"\x85R0"))
        return (
            self.value(depth + 1) + self.put() + (b"h" + bytes([index]) + call + b"0") * self.rng.choice((2, 50, 800))
        )

    def name(self, depth: int) -> bytes:
        known = self.rng.random() < 0.8
        return _name(self.rng.choice(list(NAMES) if known else GADGETS))

    def called(self, depth: int) -> bytes:
        arguments = b"(" + self.items(depth, 5) + b"t"
        return self.name(depth) + arguments + self.rng.choice((b"R", b"R", b"\x81"))

    def usual(self, depth: int) -> bytes:
        """A call as torch, NumPy and Python write it, of a random value where it takes one."""
        name, arguments = self.rng.choice(USUAL)
        return _name(name) + b"(" + (arguments or self.sequence(depth)) + b"tR"

    def built(self, depth: int) -> bytes:
        return self.value(depth + 1) + self.value(depth + 1) + b"b"

    def storage(self) -> bytes:
        rng = self.rng
        kind = "torch.FloatStorage" if rng.random() < 0.5 else rng.choice(list(STORAGES))
        count = STORED // STORAGES[kind]
        parts = (
            _text("storage" if rng.random() < 0.98 else "module"),
            _name(kind),
            _text(str(rng.randrange(8 if rng.random() < 0.98 else 10))),
            _text(rng.choice(("cpu", "cuda:0", "x" * 500)) if rng.random() < 0.1 else "cpu"),
            _int(count if rng.random() < 0.95 else rng.choice(NUMBERS)),
        )
        return b"(" + b"".join(parts) + b"tQ"

    def tensor(self, depth: int) -> bytes:
        rng = self.rng

        def pick(usual: tuple[int, ...]) -> bytes:
            return _int(rng.choice(usual) if rng.random() < 0.98 else rng.choice(NUMBERS))

        rank = 40 if rng.random() < 0.02 else rng.choice((0, 1, 2, 4))
        size, stride = (b"(" + b"".join(pick(usual) for _ in range(rank)) + b"t" for usual in ((1, 2, 3, 0), (0, 1, 2)))
        hooks = _name("collections.OrderedDict") + b")R"
        arguments = b"(" + self.storage() + pick((0, 1, 2)) + size + stride + b"\x89" + hooks
        if rng.random() < 0.1:
            arguments += self.value(depth + 1)  # metadata
        return _name("torch._utils._rebuild_tensor_v2") + arguments + b"tR"


USUAL: list[tuple[str, bytes]] = [
    ("collections.OrderedDict", b"]"),
    ("torch.device", _text("cpu")),
    ("torch.Size", b"(K\x02K\x03t"),
    ("builtins.set", b""),
    ("collections.Counter", b"}(" + _text("a") + b"K\x01u"),
    ("_codecs.encode", _text("a\xff") + _text("latin1")),
    ("numpy._core.multiarray.scalar", _name("numpy.dtype") + b"(" + _text("f4") + b"\x89\x88tRC\x04abcd"),
    ("argparse.Namespace", b""),
    ("torch.nn.parameter.Parameter", b""),
]
PLAIN: list[Any] = [Pickler.atom, Pickler.number, Pickler.text, Pickler.data, Pickler.get]
NESTED: list[Any] = [
    *(Pickler.sequence, Pickler.mapping, Pickler.mapping, Pickler.doubled, Pickler.repeated, Pickler.called),
    *(Pickler.usual, Pickler.usual, Pickler.built, Pickler.tensor, Pickler.tensor, Pickler.tensor),
]


def pickled(rng: random.Random) -> bytes:
    """A random pickle, mostly a dictionary of tensors."""
    pickler = Pickler(rng, rng.choice((4, 20, 120)))
    if rng.random() < 0.3:
        return b"\x80\x02" + pickler.value() + b"."
    entries = b"".join(
        pickler.text(0) + rng.choice((pickler.tensor, pickler.value))(1) for _ in range(rng.randrange(8))
    )
    return b"\x80\x02}(" + entries + b"u."


class Entry(NamedTuple):
    """One file of a zip archive; every number that its headers state may be another one."""

    name: bytes
    data: bytes
    method: int = 0
    flags: int = 0


def zipped(rng: random.Random, pickled_data: bytes, lie: float = 0.5) -> bytes:
    """An archive as torch writes it; with the chance `lie` one of its numbers is wrong, an entry doubled or moved."""
    stored = bytes(range(STORED))
    entries = [
        Entry(b"a/data.pkl", pickled_data),
        Entry(b"a/version", b"3\n"),
        *(Entry(f"a/data/{key}".encode(), stored) for key in range(8)),
    ]
    lying = rng.random() < lie
    kind = rng.randrange(8) if lying else -1
    victim = rng.randrange(len(entries))
    if kind == 0:
        entries.append(entries[victim])
    elif kind == 1:
        method = rng.choice((8, 8, 12, 14, 99))
        entries[victim] = entries[victim]._replace(method=method, data=zlib.compress(entries[victim].data)[2:-4])
    elif kind == 2:
        entries[victim] = entries[victim]._replace(flags=rng.choice((1, 8, 0x20, 0x40, 0x800, 0x2000)))
    elif kind == 3:
        entries[victim] = entries[victim]._replace(
            name=rng.choice((b"../x", b"/etc/passwd", b"a/data.pkl\0x", b"\xff"))
        )
    body, directory = bytearray(), bytearray()
    for index, entry in enumerate(entries):
        offset, crc, size = len(body), zlib.crc32(entry.data), len(entry.data)
        central = [
            0x02014B50,
            20,
            20,
            entry.flags,
            entry.method,
            0,
            0,
            crc,
            size,
            size,
            len(entry.name),
            0,
            0,
            0,
            0,
            0,
            offset,
        ]
        local = [0x04034B50, 20, entry.flags, entry.method, 0, 0, crc, size, size, len(entry.name), 0]
        if index == victim and kind == 4:
            at = rng.randrange(1, len(central))
            central[at] = rng.choice((0, 1, 0xFFFFFFFF, central[at] + 1, offset // 2))
        if index == victim and kind == 5:
            at = rng.randrange(1, len(local))
            local[at] = rng.choice((0, 1, 0xFFFFFFFF, local[at] + 1))
        pack = _fit("<4s5H3L2H", local)
        body += pack + entry.name + entry.data
        directory += _fit("<4s6H3L5H2L", central) + entry.name
    end = [0x06054B50, 0, 0, len(entries), len(entries), len(directory), len(body), 0]
    if kind == 6:
        at = rng.randrange(1, len(end))
        end[at] = rng.choice((0, 1, 0xFFFF, 0xFFFFFFFF, end[at] + 1))
    data = bytes(body) + bytes(directory) + _fit("<4s4H2LH", end)
    return rng.choice((b"\0" * 40, b"PK\x03\x04", b"")) + data if kind == 7 else data


def _fit(form: str, numbers: list[int]) -> bytes:
    """`struct.pack`, each number cut to its field; the first is the signature."""
    codes = form[1:].replace("4s", "", 1)
    widths = []
    count = ""
    for code in codes:
        if code.isdigit():
            count += code
        else:
            widths += [code] * int(count or 1)
            count = ""
    cut = [number & (0xFFFF if code == "H" else 0xFFFFFFFF) for code, number in zip(widths, numbers[1:], strict=True)]
    return struct.pack(form, numbers[0].to_bytes(4, "little"), *cut)


def legacy(rng: random.Random, pickled_data: bytes) -> bytes:
    """torch's format before 1.6: the storages that the pickle names stand behind it, mostly whole."""
    head = b"".join(pickle.dumps(value, 2) for value in (LEGACY_MAGIC, LEGACY_PROTOCOL, {"little_endian": True}))
    named = re.findall(rb"ctorch\n(\w+Storage)\nX\x01\x00\x00\x00(\d)", pickled_data)
    kinds = {key.decode(): f"torch.{kind.decode()}" for kind, key in reversed(named)}
    if rng.random() < 0.05:
        kinds |= {str(rng.randrange(10)): "torch.FloatStorage"}
    body = b""
    for kind in kinds.values():
        count = STORED // STORAGES[kind] if rng.random() < 0.98 else rng.choice(NUMBERS[:12])
        body += struct.pack("<q", count) + bytes(range(STORED))
    return head + pickled_data + pickle.dumps(list(kinds), 2) + body


def safetensors(rng: random.Random) -> bytes:
    """A header of random tensors, whose offsets mostly follow each other, and their bytes."""
    widths = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8, "I64": 8, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "C64": 8, "": 4}
    header: dict[str, Any] = {}
    end = 0
    for _ in range(rng.randrange(8)):
        dtype = rng.choice(list(widths)) if rng.random() < 0.3 else "F32"
        shape: Any = [
            rng.choice((1, 2, 3, 0) if rng.random() < 0.9 else NUMBERS) for _ in range(rng.choice((0, 1, 2, 4, 70)))
        ]
        count = widths[dtype]
        for n in shape:
            count *= n
        start, end = end, end + max(0, min(count, 1 << 16))
        offsets: Any = [start, end]
        if rng.random() < 0.1:
            offsets = rng.choice(
                ([end, start], [0, end], [start], [start, end, end], [str(start), end], None, [0.0, 4.0])
            )
        if rng.random() < 0.05:
            shape = rng.choice((None, "2", [2.0], [[2]], {"0": 2}, [True]))
        header[rng.choice(KEYS) + rng.choice(("", str(end)))] = {
            "dtype": dtype,
            "shape": shape,
            "data_offsets": offsets,
        }
    if rng.random() < 0.3:
        header["__metadata__"] = rng.choice(({"format": "pt"}, {"a": 1}, [], None, {"x": "y" * 5000}))
    text = json.dumps(header).encode()
    if rng.random() < 0.1:
        text = rng.choice(
            (b"[" * 5000, text + b"}", b'{"a":1' + b"0" * 5000 + b"}", text[:-1] + b',"a":{},"a":{}}', b"\xff{}")
        )
    size = len(text) if rng.random() < 0.95 else rng.choice((0, 1, len(text) + 1, 1 << 40, (1 << 64) - 1))
    return struct.pack("<Q", size) + text + bytes(end if rng.random() < 0.95 else end // 2)


def of_torch(rng: random.Random) -> bytes:
    """A file in one of torch's formats."""
    return rng.choice((legacy, zipped, zipped))(rng, pickled(rng))


def case(rng: random.Random) -> bytes:
    """A file of a random format."""
    return safetensors(rng) if rng.random() < 0.2 else of_torch(rng)
