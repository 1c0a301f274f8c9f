"""What the names in torch's pickles stand for: functions of our own that make tensors and plain containers."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import IO, Any

import numpy as np

from .file_part import FilePart
from .storage import DTYPES, MAX_DIMENSIONS, FormatError, frozen
from .unpickler import MAX_WORK, Global, Machine, Placeholder, Table, assign, hashable, run

HINT = (
    "only tensors and plain containers are read; of a whole model save model.state_dict(): "
    "torch.save(model.state_dict(), …); of a dictionary of another class save dict(…)"
)


def load(
    file: IO[bytes] | FilePart, persistent_load: Callable[[tuple[Any, ...]], np.ndarray], limit: int = MAX_WORK
) -> Any:
    """`unpickler.run` with the names that torch.save writes; an object of any other class is no result."""
    result = run(file, Table(NAMES, BUILDERS), persistent_load, limit)
    if type(result) is Placeholder:
        raise FormatError(f"the file holds one object, which refers to {result.name}, and {HINT}")
    return result


MAX_DEVICE = 64  # characters, of which a name such as "cuda:0" has few


class Namespace:
    """What an `argparse.Namespace` or `types.SimpleNamespace` held, as the plain dictionary `attributes`."""

    __slots__ = ("attributes",)

    def __init__(self) -> None:
        self.attributes: dict[str, Any] = {}


def strided(storage: Any, offset: Any, size: Any, stride: Any) -> np.ndarray:
    """A read-only view of a storage as torch describes it, offset and strides in elements; raises `FormatError`."""
    if type(storage) is not np.ndarray or storage.ndim != 1 or not storage.flags.c_contiguous:
        raise FormatError("a tensor without a storage")
    if type(size) is not tuple or type(stride) is not tuple or not len(size) == len(stride) <= MAX_DIMENSIONS:
        raise FormatError(f"a tensor's size and stride must be tuples of one length, at most {MAX_DIMENSIONS}")
    if any(type(number) is not int or not 0 <= number < 1 << 63 for number in (offset, *size, *stride)):
        raise FormatError("a tensor's offset, size and stride must be integers from 0 to 2**63 - 1")
    count = math.prod(size)
    end = offset + (1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if count else 0)
    if count > storage.size or end > storage.size:
        raise FormatError(f"a tensor of {count} elements up to {end} does not fit its storage of {storage.size}")
    if not count:
        return frozen(np.empty(size, storage.dtype))
    item = storage.dtype.itemsize
    # Through bytes, as bfloat16 arrays offer no buffer of their own; NumPy checks the bounds once more.
    return np.ndarray(size, storage.dtype, storage.view(np.uint8), offset * item, tuple(step * item for step in stride))


def _rebuild_tensor(machine: Machine, args: tuple[Any, ...]) -> np.ndarray | Placeholder:
    """`(storage, offset, size, stride)`, in v2 also `requires_grad, hooks[, metadata]`."""
    if args and type(args[0]) is Placeholder:
        return args[0]
    if not 4 <= len(args) <= 7:
        raise FormatError("a tensor takes 4 to 7 arguments")
    metadata = args[6] if len(args) > 6 else None
    machine.charge(len(metadata) if type(metadata) is dict else 0)
    if metadata is not None and (type(metadata) is not dict or any(value is not False for value in metadata.values())):
        raise FormatError("a tensor with a conjugate or negative bit")
    return strided(*args[:4])


def _rebuild_parameter(machine: Machine, args: tuple[Any, ...]) -> np.ndarray | Placeholder:
    if not args or type(args[0]) not in (np.ndarray, Placeholder):
        raise FormatError("a parameter without a tensor")
    tensor: np.ndarray | Placeholder = args[0]
    return tensor


def _mapping(kind: Callable[[], dict[Any, Any]]) -> Callable[[Machine, tuple[Any, ...]], dict[Any, Any]]:
    """A dictionary from nothing, from another, or from a list of pairs (as Python 2 pickled OrderedDict)."""

    def build(machine: Machine, args: tuple[Any, ...]) -> dict[Any, Any]:
        result, source = kind(), args[0] if args else []
        if len(args) > 1 or not isinstance(source, (list, dict)):
            raise FormatError("a dictionary from something other than pairs")
        machine.charge(len(source))
        assign(machine, result, list(source.items()) if isinstance(source, dict) else source)
        return result

    return build


def _collection(kind: type) -> Callable[[Machine, tuple[Any, ...]], Any]:
    def build(machine: Machine, args: tuple[Any, ...]) -> Any:
        items = args[0] if args else ()
        if len(args) > 1 or type(items) not in (list, tuple, set, frozenset):
            raise FormatError(f"a {kind.__name__} from something other than a list")
        machine.charge(len(items))
        return kind(items if kind in (list, tuple) else (hashable(machine, item) for item in items))

    return build


def _namespace(machine: Machine, args: tuple[Any, ...]) -> Namespace:
    if args:
        raise FormatError("a namespace takes no arguments")
    return Namespace()


def _device(machine: Machine, args: tuple[Any, ...]) -> str:
    if not 1 <= len(args) <= 2 or any(type(part) not in (str, int) for part in args) or len(str(args[0])) > MAX_DEVICE:
        raise FormatError("a device takes a name and a number")
    return ":".join(str(part)[:MAX_DEVICE] for part in args)


def _bytes(machine: Machine, value: Any) -> bytes:
    """Bytes as they are, or as the Latin-1 text that protocol 2 and Python 2 make of them."""
    if type(value) not in (bytes, str):
        raise FormatError("expected bytes")
    machine.charge_copy(value)
    return value.encode("latin-1") if isinstance(value, str) else bytes(value)


def _encode(machine: Machine, args: tuple[Any, ...]) -> bytes:
    if len(args) != 2 or type(args[1]) is not str or args[1] not in ("latin1", "latin-1"):
        raise FormatError("_codecs.encode takes a text and 'latin1'")
    return _bytes(machine, args[0])


def _empty_bytes(machine: Machine, args: tuple[Any, ...]) -> bytes:
    if args:
        raise FormatError("bytes takes no arguments")
    return b""


def _numpy_dtype(machine: Machine, args: tuple[Any, ...]) -> np.dtype[Any] | Placeholder:
    code = args[0] if args else None
    if type(code) is not str:
        raise FormatError("a NumPy dtype that is no plain number")
    # Texts, dates, objects: no weight is of such a type.
    return _NUMPY_DTYPES[code] if code in _NUMPY_DTYPES else Placeholder("numpy.dtype")


def _numpy_scalar(machine: Machine, args: tuple[Any, ...]) -> Any:
    if len(args) == 2 and type(args[0]) is Placeholder:
        return Placeholder("numpy.generic")
    if len(args) != 2 or not isinstance(args[0], np.dtype):
        raise FormatError("a NumPy scalar takes a dtype and bytes")
    data = _bytes(machine, args[1])
    if len(data) != args[0].itemsize:
        raise FormatError("a NumPy scalar whose bytes do not fit its dtype")
    return np.frombuffer(data, args[0])[0]


def _numpy_array(machine: Machine, args: tuple[Any, ...]) -> np.ndarray:
    return np.empty(0, np.int8)  # BUILD fills it in


def _numpy_from_buffer(machine: Machine, args: tuple[Any, ...]) -> np.ndarray | Placeholder:
    """`(bytes, dtype, shape, order[, axes])`, as protocol 5 has it; order K has the axes in another sequence."""
    if not 4 <= len(args) <= 5 or type(args[3]) is not str:
        raise FormatError("a NumPy array takes bytes, a dtype, a shape and an order")
    if type(args[1]) is Placeholder:
        return Placeholder("numpy.ndarray")
    array = np.empty(0, np.int8)
    _build_array(machine, array, (1, args[2], args[1], args[3] == "F", args[0]))
    axes = args[4] if len(args) > 4 and args[3] == "K" else None
    if axes is None:
        return array
    if type(axes) not in (tuple, list) or len(axes) != array.ndim or any(type(axis) is not int for axis in axes):
        raise FormatError("a NumPy array with a wrong order of axes")
    return array.transpose(axes)


def _build_dict(machine: Machine, target: Any, state: Any) -> None:
    """The attributes of an OrderedDict, torch's `_metadata`: dropped."""


def _build_namespace(machine: Machine, target: Namespace, state: Any) -> None:
    machine.charge(len(state) if type(state) is dict else 0)
    if type(state) is not dict or any(type(key) is not str for key in state):
        raise FormatError("a namespace's state must be a dictionary with names as keys")
    target.attributes.update(state)


def _build_dtype(machine: Machine, target: np.dtype[Any], state: Any) -> None:
    if type(state) is not tuple or len(state) < 2 or type(state[1]) is not str or state[1] not in ("<", "|", "="):
        raise FormatError("a NumPy dtype of big-endian or unknown form")


def _build_array(machine: Machine, target: np.ndarray, state: Any) -> None:
    if target.shape != (0,) or not target.flags.writeable or type(state) is not tuple or len(state) != 5:
        raise FormatError("an array can be filled in only once, by five values")
    _version, shape, dtype, fortran, data = state
    if type(dtype) is Placeholder:  # of texts or objects: it stays empty, so as a weight its shape is wrong
        frozen(target)
        return
    if type(shape) is not tuple or len(shape) > MAX_DIMENSIONS or not isinstance(dtype, np.dtype):
        raise FormatError("a NumPy array without shape or dtype")
    if any(type(n) is not int or n < 0 for n in shape) or type(fortran) not in (bool, int):
        raise FormatError("a NumPy array with a wrong shape or order")
    content = _bytes(machine, data)
    if math.prod(shape) * dtype.itemsize != len(content):
        raise FormatError("a NumPy array whose bytes do not fit its shape")
    state = (1, shape, dtype, bool(fortran), content)
    target.__setstate__(state)
    frozen(target)


_NUMPY_DTYPES = {
    code: np.dtype(code) for code in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")
}
_STORAGES = {f"torch.{row.storage}": row.numpy for row in DTYPES.values()}
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
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
    "_codecs.encode": _encode,
    "numpy.dtype": _numpy_dtype,
    "numpy.ndarray": None,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
    "numpy.core.multiarray._reconstruct": _numpy_array,
    "numpy._core.multiarray._reconstruct": _numpy_array,
    "numpy.core.numeric._frombuffer": _numpy_from_buffer,
    "numpy._core.numeric._frombuffer": _numpy_from_buffer,
}
NAMES: dict[str, Any] = (
    {name: Global(name, call) for name, call in _CALLS.items()}
    | {name: Global(name, dtype=dtype) for name, dtype in _STORAGES.items()}
    | {f"torch.{name}": row.numpy for name, row in DTYPES.items()}
)
BUILDERS = (
    (OrderedDict, _build_dict),
    (Namespace, _build_namespace),
    (np.dtype, _build_dtype),
    (np.ndarray, _build_array),
)
