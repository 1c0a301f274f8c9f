"""A command's options, generated from the dataclasses that they fill.

A field is an option if its metadata has a "help". Its name, type and default are the option's, unless the metadata says
otherwise:

=========== ==========================================================================================
help        one line on what it does
panel       the group in `--help` that it belongs to
name        the option, such as "--format"; default the field's name
also        other names of the option, such as ("--lr",)
metavar     what stands for the value in `--help`
min, max    limits of a number
choices     the values that are allowed
envvar      the environment variable that gives it too
unit        the field is the option's number times this, such as 1e-3 for --batch-timeout-ms
type, read  the option's type, and what makes the field's value of it
=========== ==========================================================================================
"""

import difflib
import functools
import inspect
import keyword
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from .application import message_of, read_options

METAVARS = {bool: "", int: "N", float: "N", str: "TEXT", Path: "PATH"}
GIVEN = ("COMMANDLINE", "ENVIRONMENT")  # click's sources of what a user said, in place of a default


class CommandError(RuntimeError):
    """What a user can mend, in the words of the command line."""


@dataclass(frozen=True)
class Changes:
    """Marks a parameter, `Annotated[dict[str, Any], Changes(Recipe)]`: it gets the fields that were given."""

    owners: tuple[type, ...]

    def __init__(self, *owners: type) -> None:
        object.__setattr__(self, "owners", owners)


@dataclass(frozen=True)
class Option:
    """One field on the command line.

    Attributes:
        field: its name in the dataclass.
        parameter: the command's parameter, such as "image_size".
        flag: what the user types, such as "--image-size".
        annotation, default: what typer makes the option of.
        read: from the option's value to the field's.
    """

    field: str
    parameter: str
    flag: str
    annotation: Any
    default: Any
    read: Callable[[Any], Any]


def from_fields(function: Callable[..., None]) -> Callable[..., None]:
    """Makes a command of a function with dataclasses as parameters: each field becomes an option.

    The function gets a filled instance of each dataclass, and for each `Changes` a dictionary of what was given. Errors
    name options instead of fields: `val_size=0 must …` becomes `--val-size 0 must …`.
    """
    hints = typing.get_type_hints(function, include_extras=True)
    groups: dict[str, tuple[Callable[..., Any], bool, list[Option]]] = {}
    shown: dict[str, tuple[Any, Any]] = {"context": (typer.Context, inspect.Parameter.empty)}
    for name, parameter in inspect.signature(function).parameters.items():
        changes = [mark for mark in getattr(hints[name], "__metadata__", ()) if isinstance(mark, Changes)]
        if is_dataclass(hints[name]) or changes:
            owners = changes[0].owners if changes else (hints[name],)
            options = [option for owner in owners for option in _options(owner, optional=bool(changes))]
            groups[name] = dict if changes else hints[name], bool(changes), options
            shown |= {option.parameter: (option.annotation, option.default) for option in options}
        elif name != "context":
            shown[name] = hints[name], parameter.default
    every = [option for _, _, options in groups.values() for option in options]
    flags = {name: option.flag for option in every for name in (option.field, option.parameter)}

    @functools.wraps(function)
    def command(context: typer.Context, **values: Any) -> None:
        given = {name for name in values if _source(context, name) in GIVEN}
        arguments: dict[str, Any] = {"context": context} if "context" in hints else {}
        arguments |= {name: values[name] for name in hints if name in values and name not in groups}
        try:
            for name, (make, only_given, options) in groups.items():
                arguments[name] = make(
                    **{
                        option.field: option.read(values[option.parameter])
                        for option in options
                        if option.parameter in given or not (only_given or _is_default(option, values))
                    }
                )
            function(**arguments)
        except Exception as error:
            if hasattr(error, "format_message") or (message := message_of(error)) is None:
                raise  # click's own, or a fault of this code
            raise CommandError(in_flags(message, flags)) from error

    kind = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter(name, kind, default=d, annotation=a) for name, (a, d) in shown.items()]
    vars(command)["__signature__"] = inspect.Signature(parameters)
    command.__annotations__ = {name: annotation for name, (annotation, _) in shown.items()}
    return command


def in_flags(message: str, flags: Mapping[str, str]) -> str:
    """A message about arguments, as one about options: `val_size=0` as `--val-size 0`, and `val_size` alone too."""
    known = "|".join(sorted(map(re.escape, flags), key=len, reverse=True))
    if not known:
        return message
    free = r"(?<![\w.\-/'\"])"
    message = re.sub(rf"{free}({known})=(?:True (?=\S)|(?=\S))", lambda found: f"{flags[found[1]]} ", message)
    return re.sub(rf"{free}({known})(?![\w.\-/'\"=])", lambda f: flags[f[1]] if "_" in f[1] else f[0], message)


def _source(context: typer.Context, name: str) -> str:
    source = context.get_parameter_source(name)
    return source.name if source else ""


def _is_default(option: Option, values: Mapping[str, Any]) -> bool:
    """The dataclass has its defaults itself."""
    return bool(values[option.parameter] == option.default)


def _options(owner: type, *, optional: bool) -> list[Option]:
    hints = typing.get_type_hints(owner)
    return [_option(field, hints[field.name], optional) for field in fields(owner) if "help" in field.metadata]


def _option(field: "Field[Any]", hint: Any, optional: bool) -> Option:
    told = field.metadata
    flag = told.get("name") or f"--{field.name.replace('_', '-')}"
    parameter = flag.removeprefix("--").replace("-", "_")
    parameter += "_" * keyword.iskeyword(parameter)
    unit, choices = told.get("unit"), told.get("choices")
    kind, read = _kind(hint)
    kind, read = told.get("type", float if unit else kind), told.get("read", read)
    default = None if optional or "read" in told else _default(field)
    if unit:
        whole = _bare(hint) is int
        default = None if default is None else default / unit
        read = lambda value: int(value * unit) if whole else value * unit  # noqa: E731
    if default in ((), {}):
        default = None
    names = [flag, *told.get("also", ())]
    if kind is bool and field.default is not False:  # else there is nothing to switch off
        names = [f"{flag}/--no-{flag.removeprefix('--')}"]
    info = typer.Option(
        *names, help=told["help"], rich_help_panel=told.get("panel"), metavar=told.get("metavar", METAVARS.get(kind)),
        min=told.get("min"), max=told.get("max"), envvar=told.get("envvar"),
    )  # fmt: skip
    return Option(
        field.name,
        parameter,
        flag,
        Annotated[kind | None if default is None else kind, info],
        default,
        _chosen(field.name, choices, read) if choices else read,
    )


def _chosen(name: str, choices: Sequence[str], read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if value not in choices:
            near = difflib.get_close_matches(str(value), choices, 1)
            meant = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"{name}={value!r} must be one of {', '.join(choices)}{meant}")
        return read(value)

    return check


def _default(field: "Field[Any]") -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _bare(hint: Any) -> Any:
    """The type without None."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return next(part for part in typing.get_args(hint) if part is not type(None))
    return hint


def _kind(hint: Any) -> tuple[Any, Callable[[Any], Any]]:
    """The option's type, and how its value becomes the field's."""
    hint = _bare(hint)
    origin = typing.get_origin(hint)
    if origin is tuple:  # an option that may be repeated
        return list[typing.get_args(hint)[0]], tuple  # type: ignore[misc]
    if origin is Mapping:  # NAME=VALUE, which may be repeated
        return list[str], read_options
    return hint, lambda value: value
