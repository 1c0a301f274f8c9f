"""A pickle machine that can only build data.

`torch.save` writes pickles, and a pickle is a program: the standard library's `pickle.load` runs whatever it names.
This machine decodes the same opcodes (`pickletools.genops`, protocols 1 to 5) but looks every name up in a table of our
own functions (`rebuild.py`). It imports nothing, sets no attribute and calls nothing that came out of the file:
any other name becomes a `Placeholder`, and so does what the file makes of it.
Work is bounded: an opcode, and an element or a piece of text that is copied or looked at, costs one unit of
`MAX_WORK`, and nothing ever walks through a built object.
"""

from __future__ import annotations

import pickletools
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .storage import FormatError

MAX_WORK = 300_000  # opcodes, copied and compared elements; a ResNeXt-152 with its optimizer takes about 100,000
BYTES_PER_WORK = 16  # copied for one unit of work
MAX_MARKS = 1000  # containers open at once
MAX_INT_BITS = 1024
MAX_KEY = 64  # parts of a tuple that is a key
MAX_NAME = 200  # characters of a class's name


@dataclass(frozen=True)
class Global:
    """A name from the table: `call` is our own function for it, `dtype` is set for a storage class."""

    name: str
    call: Callable[[Machine, tuple[Any, ...]], Any] | None = None
    dtype: np.dtype[Any] | None = None


class Placeholder:
    """Stands for an object that is not built, such as a scheduler or a path, and remembers its class's name alone."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


class Table(NamedTuple):
    """All names that are given a meaning, and what states do to objects, by their type."""

    names: Mapping[str, Any]  # Global, or a plain object such as a dtype
    builders: tuple[tuple[type, Callable[[Machine, Any, Any], None]], ...]


class Machine:
    """Stack, marks and memo of one run."""

    def __init__(self, table: Table, persistent_load: Callable[[tuple[Any, ...]], Any], limit: int) -> None:
        self.table = table
        self.limit = limit
        self.persistent_load = persistent_load
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []  # the stacks below each open mark
        self.memo: dict[int, Any] = {}
        self.work = 0
        self.once: dict[int, Any] = {}  # texts and bytes that were copied, by id

    def charge_copy(self, value: str | bytes) -> None:
        """The first copy of something in the file costs no more than the file; each further one costs its length."""
        if id(value) in self.once:
            self.charge(len(value) // BYTES_PER_WORK)
        self.once[id(value)] = value

    def charge(self, units: int) -> None:
        self.work += units
        if self.work > self.limit:
            raise FormatError(f"takes more than {self.limit} steps to build")

    def pop(self) -> Any:
        if not self.stack:
            raise FormatError("takes from an empty stack")
        return self.stack.pop()

    def top(self) -> Any:
        if not self.stack:
            raise FormatError("needs an element on the stack")
        return self.stack[-1]

    def mark(self) -> None:
        if len(self.outer) >= MAX_MARKS:
            raise FormatError(f"opens more than {MAX_MARKS} containers at once")
        self.outer.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[Any]:
        if not self.outer:
            raise FormatError("closes a container that was never opened")
        items, self.stack = self.stack, self.outer.pop()
        return items

    def remember(self, index: int) -> None:
        self.memo[index] = self.top()

    def recall(self, index: int) -> None:
        if index not in self.memo:
            raise FormatError(f"memo entry {index} was never set")
        self.stack.append(self.memo[index])


def run(file: Any, table: Table, persistent_load: Callable[[tuple[Any, ...]], Any], limit: int = MAX_WORK) -> Any:
    """Build the object of the pickle at `file`'s position, and leave the position behind it.

    `file` has read, readline and tell, such as a `FilePart`.
    `persistent_load` turns a persistent id into the one-dimensional array of that storage. Raises `FormatError`, and
    nothing else, whatever the bytes are.
    """
    machine, where = Machine(table, persistent_load, limit), "the start"
    try:
        for opcode, argument, position in pickletools.genops(file):
            where = f"{opcode.name} at byte {position}"
            if opcode.name == "STOP":
                return machine.pop()
            if opcode.name not in OPCODES:
                raise FormatError(f"the opcode {opcode.name} has no place in a checkpoint")
            machine.charge(3 if opcode.name == "EMPTY_SET" else 1)  # a set takes 216 bytes
            OPCODES[opcode.name](machine, argument)
        raise FormatError("it ends without STOP")
    except FormatError as error:
        raise FormatError(f"pickle, {where}: {error}") from None
    except Exception as error:  # the decoder's, or an int()'s or NumPy's objection to a value from the file
        raise FormatError(f"pickle, after {where}: {type(error).__name__}: {str(error)[:200]}") from error


_KEYS = (str, bytes, int, float, bool, type(None), Placeholder)


def hashable(machine: Machine, key: Any, leaves: int = MAX_KEY) -> Any:
    """The key of a dictionary or element of a set, if hashing it is cheap whatever the file says."""
    waiting = [key]
    while waiting:
        part = waiting.pop()
        leaves -= 1
        machine.charge(1)
        if type(part) is tuple and len(part) <= leaves:
            waiting += part
        elif type(part) is np.ndarray and part is key:
            return Placeholder("torch.Tensor")  # an optimizer's state, by parameter
        elif type(part) not in _KEYS and not isinstance(part, (np.generic, np.dtype)):
            raise FormatError(f"an object of type {type(part).__name__} as a key")
        elif type(part) is int and part.bit_length() > 64:
            raise FormatError("an integer beyond 64 bits as a key")
    return key


def assign(machine: Machine, target: Any, pairs: list[Any]) -> None:
    if type(target) is Placeholder:
        return
    if type(target) not in (dict, OrderedDict):
        raise FormatError(f"sets items of an object of type {type(target).__name__}")
    for pair in pairs:
        if type(pair) not in (list, tuple) or len(pair) != 2:
            raise FormatError("a dictionary entry that is no pair")
        target[hashable(machine, pair[0])] = pair[1]


def _set_items(machine: Machine, _: Any) -> None:
    items = machine.pop_mark()
    if len(items) % 2:
        raise FormatError("a key without a value")
    assign(machine, machine.top(), list(zip(items[::2], items[1::2], strict=True)))


def _set_item(machine: Machine, _: Any) -> None:
    value, key = machine.pop(), machine.pop()
    assign(machine, machine.top(), [(key, value)])


def _extend(machine: Machine, items: list[Any]) -> None:
    target = machine.top()
    if type(target) not in (list, Placeholder):
        raise FormatError(f"appends to an object of type {type(target).__name__}")
    if type(target) is list:
        target.extend(items)


def _add_items(machine: Machine, _: Any) -> None:
    items, target = machine.pop_mark(), machine.top()
    if type(target) not in (set, Placeholder):
        raise FormatError(f"adds to an object of type {type(target).__name__}")
    if type(target) is set:
        target.update(hashable(machine, item) for item in items)


def _tuple(length: int) -> Callable[[Machine, Any], None]:
    return lambda machine, _: machine.stack.append(tuple([machine.pop() for _ in range(length)][::-1]))


def _integer(machine: Machine, value: Any) -> None:
    if value.bit_length() > MAX_INT_BITS:
        raise FormatError(f"an integer of more than {MAX_INT_BITS} bits")
    machine.stack.append(value)


def _global(machine: Machine, module: Any, name: Any) -> None:
    if type(module) is not str or type(name) is not str:
        raise FormatError("a name that is no text")
    # A long name is in no table, and one text may serve for any number of names.
    path = f"{'builtins' if module == '__builtin__' else module[:MAX_NAME]}.{name[:MAX_NAME]}"
    shown = path if path.isprintable() and len(path) < MAX_NAME else repr(path[:MAX_NAME])
    machine.stack.append(machine.table.names[path] if path in machine.table.names else Placeholder(shown))


def _stack_global(machine: Machine, _: Any) -> None:
    name, module = machine.pop(), machine.pop()
    _global(machine, module, name)


def _call(machine: Machine, _: Any) -> None:
    """REDUCE and NEWOBJ alike: every function in the table is ours and makes data."""
    args, function = machine.pop(), machine.pop()
    if type(function) is Placeholder:
        # copyreg's functions make an object of the class that is their first argument.
        makes = function.name.startswith(("copyreg.", "copy_reg."))
        inner = args[0] if makes and type(args) is tuple and args else None
        machine.stack.append(Placeholder(inner.name if type(inner) is Placeholder else function.name))
        return
    if type(function) is not Global:
        raise FormatError(f"calls an object of type {type(function).__name__}")
    if function.call is None or type(args) is not tuple:
        raise FormatError(f"calls {function.name}{' with something other than a tuple' * (function.call is not None)}")
    machine.stack.append(function.call(machine, args))


def _call_with_keywords(machine: Machine, _: Any) -> None:
    _keywords, _args, function = machine.pop(), machine.pop(), machine.pop()
    if type(function) is not Placeholder:
        raise FormatError("the opcode NEWOBJ_EX has no place in a checkpoint")
    machine.stack.append(Placeholder(function.name))


def _build(machine: Machine, _: Any) -> None:
    state, target = machine.pop(), machine.top()
    if type(target) is Placeholder:
        return None
    for kind, build in machine.table.builders:
        if isinstance(target, kind):
            return build(machine, target, state)
    raise FormatError(f"sets the state of an object of type {type(target).__name__}")


def _persistent(machine: Machine, _: Any) -> None:
    identity = machine.pop()
    # A class of a module with its source, or a storage of a type that no weight has, such as complex numbers.
    if type(identity) is tuple and len(identity) >= 4 and type(identity[1]) is Placeholder:
        return machine.stack.append(identity[1])
    if type(identity) is not tuple or not 5 <= len(identity) <= 6 or identity[:1] != ("storage",):
        raise FormatError("a persistent id that is no storage")
    return machine.stack.append(machine.persistent_load(identity))


def _push(machine: Machine, value: Any) -> None:
    machine.stack.append(value)


OPCODES: dict[str, Callable[[Machine, Any], object]] = {
    **dict.fromkeys(("PROTO", "FRAME"), lambda machine, _: None),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "LONG4"), _integer),
    **dict.fromkeys(("BINFLOAT", "BINSTRING", "SHORT_BINSTRING", "BINUNICODE", "SHORT_BINUNICODE"), _push),
    **dict.fromkeys(("BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"), _push),
    "NONE": _push,  # its argument is what genops gives for none, None
    "NEWTRUE": lambda machine, _: _push(machine, True),
    "NEWFALSE": lambda machine, _: _push(machine, False),
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "EMPTY_TUPLE": _tuple(0),
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "EMPTY_SET": lambda machine, _: machine.stack.append(set()),
    "MARK": lambda machine, _: machine.mark(),
    "POP": lambda machine, _: machine.pop(),
    "POP_MARK": lambda machine, _: machine.pop_mark(),
    "DUP": lambda machine, _: machine.stack.append(machine.top()),
    "APPEND": lambda machine, _: _extend(machine, [machine.pop()]),
    "APPENDS": lambda machine, _: _extend(machine, machine.pop_mark()),
    "TUPLE": lambda machine, _: _push(machine, tuple(machine.pop_mark())),
    **{f"TUPLE{length}": _tuple(length) for length in (1, 2, 3)},
    "SETITEM": _set_item,
    "SETITEMS": _set_items,
    "ADDITEMS": _add_items,
    "FROZENSET": lambda machine, _: _push(machine, frozenset(hashable(machine, i) for i in machine.pop_mark())),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), lambda machine, index: machine.remember(index)),
    "MEMOIZE": lambda machine, _: machine.remember(len(machine.memo)),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda machine, index: machine.recall(index)),
    "GLOBAL": lambda machine, pair: _global(machine, *pair.split(" ", 1)),
    "STACK_GLOBAL": _stack_global,
    **dict.fromkeys(("REDUCE", "NEWOBJ"), _call),
    "NEWOBJ_EX": _call_with_keywords,
    "BYTEARRAY8": lambda machine, value: machine.stack.append(bytes(value)),
    "BUILD": _build,
    "BINPERSID": _persistent,
}
