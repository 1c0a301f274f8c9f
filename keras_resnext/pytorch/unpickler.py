"""A pickle machine that can only build data.

`torch.save` writes pickles, and a pickle is a program: the standard library's `pickle.load` runs whatever it names.
This machine decodes the same opcodes (`pickletools.genops`, protocols 0 to 5) but looks every name up in `GLOBALS`,
whose functions are all in this file. It imports nothing, sets no attribute and calls nothing that came out of the file.
Work is bounded: an opcode, or an element that is copied, costs one unit of `MAX_WORK`, and nothing ever walks through a
built object.
"""

from __future__ import annotations

import math
import pickletools
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, NamedTuple

import ml_dtypes
import numpy as np

MAX_PICKLE = 1 << 25  # bytes; that of a ResNeXt-152 with its optimizer takes about 1 MB
MAX_WORK = 1_000_000  # opcodes and copied elements; the same checkpoint takes about 100,000
MAX_MARKS = 1000  # containers open at once
MAX_INT_BITS = 1024
MAX_DIMENSIONS = 32  # what every NumPy supports
TUPLE_KEY_COST = 1000  # hashes of tuples can be made to collide, so there may only be few of them
MAX_TUPLE_KEY = 8
BYTES_PER_WORK = 16

HINT = "only tensors and plain containers are read; of a whole model save model.state_dict()"


class UnpickleError(ValueError):
    """A pickle that is malformed, or that wants more than data."""


class DType(NamedTuple):
    """One element type under its three names; all formats store it little-endian."""

    numpy: np.dtype[Any]
    storage: str | None
    safetensors: str


DTYPES: dict[str, DType] = {
    "float16": DType(np.dtype("<f2"), "HalfStorage", "F16"),
    "float32": DType(np.dtype("<f4"), "FloatStorage", "F32"),
    "float64": DType(np.dtype("<f8"), "DoubleStorage", "F64"),
    "bfloat16": DType(np.dtype(ml_dtypes.bfloat16), "BFloat16Storage", "BF16"),
    "int8": DType(np.dtype("i1"), "CharStorage", "I8"),
    "int16": DType(np.dtype("<i2"), "ShortStorage", "I16"),
    "int32": DType(np.dtype("<i4"), "IntStorage", "I32"),
    "int64": DType(np.dtype("<i8"), "LongStorage", "I64"),
    "uint8": DType(np.dtype("u1"), "ByteStorage", "U8"),
    "uint16": DType(np.dtype("<u2"), None, "U16"),  # without a storage class, torch goes by _rebuild_tensor_v3
    "uint32": DType(np.dtype("<u4"), None, "U32"),
    "uint64": DType(np.dtype("<u8"), None, "U64"),
    "bool": DType(np.dtype("?"), "BoolStorage", "BOOL"),
}


class Namespace:
    """What an `argparse.Namespace` or `types.SimpleNamespace` held, as the plain dictionary `attributes`."""

    __slots__ = ("attributes",)

    def __init__(self) -> None:
        self.attributes: dict[str, Any] = {}


@dataclass(frozen=True)
class Global:
    """A name from the table: `call` is our own function for it, `dtype` is set for a storage class."""

    name: str
    call: Callable[[Machine, tuple[Any, ...]], Any] | None = None
    dtype: np.dtype[Any] | None = None


class Machine:
    """Stack, marks and memo of one run."""

    def __init__(self, persistent_load: Callable[[tuple[Any, ...]], Any]) -> None:
        self.persistent_load = persistent_load
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []  # the stacks below each open mark
        self.memo: dict[int, Any] = {}
        self.work = 0

    def charge(self, units: int) -> None:
        self.work += units
        if self.work > MAX_WORK:
            raise UnpickleError(f"takes more than {MAX_WORK} steps to build")

    def pop(self) -> Any:
        if not self.stack:
            raise UnpickleError("takes from an empty stack")
        return self.stack.pop()

    def top(self) -> Any:
        if not self.stack:
            raise UnpickleError("needs an element on the stack")
        return self.stack[-1]

    def mark(self) -> None:
        if len(self.outer) >= MAX_MARKS:
            raise UnpickleError(f"opens more than {MAX_MARKS} containers at once")
        self.outer.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[Any]:
        if not self.outer:
            raise UnpickleError("closes a container that was never opened")
        items, self.stack = self.stack, self.outer.pop()
        return items

    def remember(self, index: int) -> None:
        if not 0 <= index < 1 << 32:
            raise UnpickleError("memo index out of range")
        self.memo[index] = self.top()

    def recall(self, index: int) -> None:
        if index not in self.memo:
            raise UnpickleError(f"memo entry {index} was never set")
        self.stack.append(self.memo[index])


def load(file: IO[bytes], persistent_load: Callable[[tuple[Any, ...]], Any]) -> Any:
    """Build the object of the pickle at `file`'s position, and leave the position behind it.

    `persistent_load` turns a persistent id into the one-dimensional array of that storage. Raises `UnpickleError`, and
    nothing else, whatever the bytes are.
    """
    machine, where = Machine(persistent_load), "the start"
    try:
        for opcode, argument, position in pickletools.genops(file):
            where = f"{opcode.name} at byte {position}"
            if opcode.name == "STOP":
                return machine.pop()
            if opcode.name not in OPCODES:
                raise UnpickleError(f"the opcode {opcode.name} has no place in a checkpoint")
            machine.charge(1)
            OPCODES[opcode.name](machine, argument)
        raise UnpickleError("it ends without STOP")
    except UnpickleError as error:
        raise UnpickleError(f"pickle, {where}: {error}") from None
    except Exception as error:  # the decoder's, or an int()'s or NumPy's objection to a value from the file
        raise UnpickleError(f"pickle, after {where}: {type(error).__name__}: {str(error)[:200]}") from error


# --- what names stand for -------------------------------------------------------------------------------------------


def strided(storage: Any, offset: Any, size: Any, stride: Any) -> np.ndarray:
    """A read-only view of a storage as torch describes it, offset and strides in elements; raises `UnpickleError`."""
    if type(storage) is not np.ndarray or storage.ndim != 1 or not storage.flags.c_contiguous:
        raise UnpickleError("a tensor without a storage")
    if type(size) is not tuple or type(stride) is not tuple or not len(size) == len(stride) <= MAX_DIMENSIONS:
        raise UnpickleError(f"a tensor's size and stride must be tuples of one length, at most {MAX_DIMENSIONS}")
    if any(type(number) is not int or not 0 <= number < 1 << 63 for number in (offset, *size, *stride)):
        raise UnpickleError("a tensor's offset, size and stride must be integers from 0 to 2**63 - 1")
    count = math.prod(size)
    end = offset + (1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if count else 0)
    if count > storage.size or end > storage.size:
        raise UnpickleError(f"a tensor of {count} elements up to {end} does not fit its storage of {storage.size}")
    if not count:
        return _frozen(np.empty(size, storage.dtype))
    item = storage.dtype.itemsize
    # Through bytes, as bfloat16 arrays offer no buffer of their own; NumPy checks the bounds once more.
    return np.ndarray(size, storage.dtype, storage.view(np.uint8), offset * item, tuple(step * item for step in stride))


def _frozen(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


def _rebuild_tensor(machine: Machine, args: tuple[Any, ...]) -> np.ndarray:
    """`(storage, offset, size, stride)`, in v2 also `requires_grad, hooks[, metadata]`."""
    if not 4 <= len(args) <= 7:
        raise UnpickleError("a tensor takes 4 to 7 arguments")
    return _plain(strided(*args[:4]), *args[6:])


def _rebuild_tensor_v3(machine: Machine, args: tuple[Any, ...]) -> np.ndarray:
    """`(storage, offset, size, stride, requires_grad, hooks, dtype[, metadata])`: the storage is bytes."""
    if not 7 <= len(args) <= 8 or type(args[0]) is not np.ndarray or not isinstance(args[6], np.dtype):
        raise UnpickleError("a tensor of this kind takes 7 or 8 arguments, a storage and a dtype among them")
    storage, dtype = args[0].reshape(-1).view(np.uint8), args[6]
    storage = storage[: storage.size // dtype.itemsize * dtype.itemsize].view(dtype)
    return _plain(strided(storage, *args[1:4]), *args[7:])


def _plain(array: np.ndarray, metadata: Any = None) -> np.ndarray:
    if metadata is not None and (type(metadata) is not dict or any(value is not False for value in metadata.values())):
        raise UnpickleError("a tensor with a conjugate or negative bit")
    return array


def _rebuild_parameter(machine: Machine, args: tuple[Any, ...]) -> np.ndarray:
    if not args or type(args[0]) is not np.ndarray:
        raise UnpickleError("a parameter without a tensor")
    return args[0]


def _rebuild_from_type(machine: Machine, args: tuple[Any, ...]) -> np.ndarray:
    """`(function, type, arguments, state)`: a tensor with attributes, which are dropped."""
    if len(args) != 4 or type(args[0]) is not Global or type(args[2]) is not tuple:
        raise UnpickleError("a tensor subclass takes 4 arguments")
    if args[0].call not in (_rebuild_tensor, _rebuild_tensor_v3, _rebuild_parameter):
        raise UnpickleError(f"a tensor subclass made by {args[0].name}")
    array: np.ndarray = args[0].call(machine, args[2])
    return array


def _mapping(kind: Callable[[], dict[Any, Any]]) -> Callable[[Machine, tuple[Any, ...]], dict[Any, Any]]:
    """A dictionary from nothing, from another, or from a list of pairs (as Python 2 pickled OrderedDict)."""

    def build(machine: Machine, args: tuple[Any, ...]) -> dict[Any, Any]:
        result, source = kind(), args[0] if args else []
        if len(args) > 1 or not isinstance(source, (list, dict)):
            raise UnpickleError("a dictionary from something other than pairs")
        _assign(machine, result, list(source.items()) if isinstance(source, dict) else source)
        return result

    return build


def _collection(kind: type) -> Callable[[Machine, tuple[Any, ...]], Any]:
    def build(machine: Machine, args: tuple[Any, ...]) -> Any:
        items = args[0] if args else ()
        if len(args) > 1 or type(items) not in (list, tuple, set, frozenset):
            raise UnpickleError(f"a {kind.__name__} from something other than a list")
        machine.charge(len(items))
        return kind(items if kind in (list, tuple) else (_key(machine, item) for item in items))

    return build


def _namespace(machine: Machine, args: tuple[Any, ...]) -> Namespace:
    if args:
        raise UnpickleError("a namespace takes no arguments")
    return Namespace()


def _device(machine: Machine, args: tuple[Any, ...]) -> str:
    if not 1 <= len(args) <= 2 or any(type(part) not in (str, int) for part in args):
        raise UnpickleError("a device takes a name and a number")
    return ":".join(str(part) for part in args)


def _bytes(machine: Machine, value: Any) -> bytes:
    """Bytes as they are, or as the Latin-1 text that protocol 2 and Python 2 make of them."""
    if type(value) not in (bytes, str):
        raise UnpickleError("expected bytes")
    machine.charge(len(value) // BYTES_PER_WORK)
    return value.encode("latin-1") if isinstance(value, str) else bytes(value)


def _encode(machine: Machine, args: tuple[Any, ...]) -> bytes:
    if len(args) != 2 or type(args[1]) is not str or args[1] not in ("latin1", "latin-1"):
        raise UnpickleError("_codecs.encode takes a text and 'latin1'")
    return _bytes(machine, args[0])


def _empty_bytes(machine: Machine, args: tuple[Any, ...]) -> bytes:
    if args:
        raise UnpickleError("bytes takes no arguments")
    return b""


def _numpy_dtype(machine: Machine, args: tuple[Any, ...]) -> np.dtype[Any]:
    code = args[0] if args else None
    if type(code) is not str or code not in _NUMPY_DTYPES:
        raise UnpickleError("a NumPy dtype that is no plain number")
    return _NUMPY_DTYPES[code]


def _numpy_scalar(machine: Machine, args: tuple[Any, ...]) -> Any:
    if len(args) != 2 or not isinstance(args[0], np.dtype):
        raise UnpickleError("a NumPy scalar takes a dtype and bytes")
    data = _bytes(machine, args[1])
    if len(data) != args[0].itemsize:
        raise UnpickleError("a NumPy scalar whose bytes do not fit its dtype")
    return np.frombuffer(data, args[0])[0]


def _numpy_array(machine: Machine, args: tuple[Any, ...]) -> np.ndarray:
    return np.empty(0, np.int8)  # BUILD fills it in


# --- BUILD ----------------------------------------------------------------------------------------------------------


def _build_dict(machine: Machine, target: Any, state: Any) -> None:
    """The attributes of an OrderedDict, torch's `_metadata`: dropped."""


def _build_namespace(machine: Machine, target: Namespace, state: Any) -> None:
    if type(state) is not dict or any(type(key) is not str for key in state):
        raise UnpickleError("a namespace's state must be a dictionary with names as keys")
    machine.charge(len(state))
    target.attributes.update(state)


def _build_dtype(machine: Machine, target: np.dtype[Any], state: Any) -> None:
    if type(state) is not tuple or len(state) < 2 or type(state[1]) is not str or state[1] not in ("<", "|", "="):
        raise UnpickleError("a NumPy dtype of big-endian or unknown form")


def _build_array(machine: Machine, target: np.ndarray, state: Any) -> None:
    if target.shape != (0,) or not target.flags.writeable or type(state) is not tuple or len(state) != 5:
        raise UnpickleError("an array can be filled in only once, by five values")
    _version, shape, dtype, fortran, data = state
    if type(shape) is not tuple or len(shape) > MAX_DIMENSIONS or not isinstance(dtype, np.dtype):
        raise UnpickleError("a NumPy array without shape or dtype")
    if any(type(n) is not int or n < 0 for n in shape) or type(fortran) not in (bool, int):
        raise UnpickleError("a NumPy array with a wrong shape or order")
    content = _bytes(machine, data)
    if math.prod(shape) * dtype.itemsize != len(content):
        raise UnpickleError("a NumPy array whose bytes do not fit its shape")
    state = (1, shape, dtype, bool(fortran), content)
    target.__setstate__(state)
    _frozen(target)


BUILDERS: tuple[tuple[type, Callable[[Machine, Any, Any], None]], ...] = (
    (OrderedDict, _build_dict),
    (Namespace, _build_namespace),
    (np.dtype, _build_dtype),
    (np.ndarray, _build_array),
)

_NUMPY_DTYPES = {
    code: np.dtype(code) for code in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")
}
_STORAGES = {f"torch.{row.storage}": row.numpy for row in DTYPES.values() if row.storage} | {
    f"{name}UntypedStorage": DTYPES["uint8"].numpy for name in ("torch.", "torch.storage.", "torch.storage._")
}
_CALLS: dict[str, Callable[[Machine, tuple[Any, ...]], Any] | None] = {
    "collections.OrderedDict": _mapping(OrderedDict),
    "collections.Counter": _mapping(dict),
    "collections.defaultdict": lambda machine, args: {},  # its factory is dropped
    "builtins.dict": _mapping(dict),
    "builtins.list": _collection(list),
    "builtins.set": _collection(set),
    "builtins.frozenset": _collection(frozenset),
    "builtins.bytes": _empty_bytes,
    "argparse.Namespace": _namespace,
    "types.SimpleNamespace": _namespace,
    "torch.Size": _collection(tuple),
    "torch.device": _device,
    "torch.Tensor": None,
    "torch.nn.parameter.Parameter": None,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": _rebuild_tensor_v3,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
    "torch._tensor._rebuild_from_type_v2": _rebuild_from_type,
    "_codecs.encode": _encode,
    "numpy.dtype": _numpy_dtype,
    "numpy.ndarray": None,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
    "numpy.core.multiarray._reconstruct": _numpy_array,
    "numpy._core.multiarray._reconstruct": _numpy_array,
}
GLOBALS: dict[str, Any] = (
    {name: Global(name, call) for name, call in _CALLS.items()}
    | {name: Global(name, dtype=dtype) for name, dtype in _STORAGES.items()}
    | {f"torch.{name}": row.numpy for name, row in DTYPES.items()}
)

# --- opcodes --------------------------------------------------------------------------------------------------------


def _key(machine: Machine, key: Any) -> Any:
    """The key of a dictionary or element of a set, if hashing it is cheap whatever the file says."""
    parts = key if type(key) is tuple and len(key) <= MAX_TUPLE_KEY else (key,)
    if parts is key:
        machine.charge(TUPLE_KEY_COST)
    for part in parts:
        if type(part) not in (str, bytes, int, float, bool, type(None)):
            raise UnpickleError(f"an object of type {type(part).__name__} as a key")
        if type(part) is int and part.bit_length() > 64:
            raise UnpickleError("an integer beyond 64 bits as a key")
    return key


def _assign(machine: Machine, target: Any, pairs: list[Any]) -> None:
    if type(target) not in (dict, OrderedDict):
        raise UnpickleError(f"sets items of an object of type {type(target).__name__}")
    machine.charge(len(pairs))
    for pair in pairs:
        if type(pair) not in (list, tuple) or len(pair) != 2:
            raise UnpickleError("a dictionary entry that is no pair")
        target[_key(machine, pair[0])] = pair[1]


def _set_items(machine: Machine, _: Any) -> None:
    items = machine.pop_mark()
    if len(items) % 2:
        raise UnpickleError("a key without a value")
    _assign(machine, machine.top(), list(zip(items[::2], items[1::2], strict=True)))


def _set_item(machine: Machine, _: Any) -> None:
    value, key = machine.pop(), machine.pop()
    _assign(machine, machine.top(), [(key, value)])


def _dict(machine: Machine, _: Any) -> None:
    items = machine.pop_mark()
    machine.stack.append({})
    machine.outer.append(machine.stack)
    machine.stack = items
    _set_items(machine, None)


def _extend(machine: Machine, items: list[Any]) -> None:
    target = machine.top()
    if type(target) is not list:
        raise UnpickleError(f"appends to an object of type {type(target).__name__}")
    target.extend(items)


def _add_items(machine: Machine, _: Any) -> None:
    items, target = machine.pop_mark(), machine.top()
    if type(target) is not set:
        raise UnpickleError(f"adds to an object of type {type(target).__name__}")
    target.update(_key(machine, item) for item in items)


def _tuple(length: int) -> Callable[[Machine, Any], None]:
    return lambda machine, _: machine.stack.append(tuple([machine.pop() for _ in range(length)][::-1]))


def _integer(machine: Machine, value: Any) -> None:
    if value.bit_length() > MAX_INT_BITS:
        raise UnpickleError(f"an integer of more than {MAX_INT_BITS} bits")
    machine.stack.append(value)


def _global(machine: Machine, module: Any, name: Any) -> None:
    if type(module) is not str or type(name) is not str:
        raise UnpickleError("a name that is no text")
    path = f"{'builtins' if module == '__builtin__' else module}.{name}"
    if path not in GLOBALS:
        shown = path if path.isprintable() and len(path) < 200 else repr(path[:200])
        raise UnpickleError(f"refers to {shown}, and {HINT}")
    machine.stack.append(GLOBALS[path])


def _stack_global(machine: Machine, _: Any) -> None:
    name, module = machine.pop(), machine.pop()
    _global(machine, module, name)


def _call(machine: Machine, _: Any) -> None:
    """REDUCE and NEWOBJ alike: every function in the table is ours and makes data."""
    args, function = machine.pop(), machine.pop()
    if type(function) is not Global or function.call is None:
        shown = function.name if type(function) is Global else f"an object of type {type(function).__name__}"
        raise UnpickleError(f"calls {shown}")
    if type(args) is not tuple:
        raise UnpickleError(f"calls {function.name} with something other than a tuple")
    machine.stack.append(function.call(machine, args))


def _build(machine: Machine, _: Any) -> None:
    state, target = machine.pop(), machine.top()
    for kind, build in BUILDERS:
        if isinstance(target, kind):
            return build(machine, target, state)
    raise UnpickleError(f"sets the state of an object of type {type(target).__name__}")


def _persistent(machine: Machine, _: Any) -> None:
    identity = machine.pop()
    if type(identity) is not tuple or len(identity) < 5 or type(identity[0]) is not str or identity[0] != "storage":
        raise UnpickleError("a persistent id that is no storage")
    machine.stack.append(machine.persistent_load(identity))


def _pop(machine: Machine, _: Any) -> None:
    machine.pop()


def _pop_mark(machine: Machine, _: Any) -> None:
    machine.pop_mark()


def _push(machine: Machine, value: Any) -> None:
    machine.stack.append(value)


OPCODES: dict[str, Callable[[Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME"), lambda machine, _: None),
    **dict.fromkeys(("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"), _integer),
    **dict.fromkeys(("FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE"), _push),
    **dict.fromkeys(("SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"), _push),
    "NONE": _push,  # these have no argument, which genops gives as None
    "NEWTRUE": lambda machine, _: machine.stack.append(True),
    "NEWFALSE": lambda machine, _: machine.stack.append(False),
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "EMPTY_TUPLE": _tuple(0),
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "EMPTY_SET": lambda machine, _: machine.stack.append(set()),
    "MARK": lambda machine, _: machine.mark(),
    "POP": _pop,
    "POP_MARK": _pop_mark,
    "DUP": lambda machine, _: machine.stack.append(machine.top()),
    "APPEND": lambda machine, _: _extend(machine, [machine.pop()]),
    "APPENDS": lambda machine, _: _extend(machine, machine.pop_mark()),
    "LIST": lambda machine, _: _push(machine, machine.pop_mark()),
    "TUPLE": lambda machine, _: _push(machine, tuple(machine.pop_mark())),
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "DICT": _dict,
    "SETITEM": _set_item,
    "SETITEMS": _set_items,
    "ADDITEMS": _add_items,
    "FROZENSET": lambda machine, _: _push(machine, frozenset(_key(machine, item) for item in machine.pop_mark())),
    "PUT": lambda machine, index: machine.remember(index),
    "BINPUT": lambda machine, index: machine.remember(index),
    "LONG_BINPUT": lambda machine, index: machine.remember(index),
    "MEMOIZE": lambda machine, _: machine.remember(len(machine.memo)),
    "GET": lambda machine, index: machine.recall(index),
    "BINGET": lambda machine, index: machine.recall(index),
    "LONG_BINGET": lambda machine, index: machine.recall(index),
    "GLOBAL": lambda machine, pair: _global(machine, *pair.split(" ", 1)),
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _call,
    "NEWOBJ": _call,
    "BUILD": _build,
    "BINPERSID": _persistent,
}
