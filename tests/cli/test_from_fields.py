"""Options made from dataclass fields: types, defaults, limits, what was given, and errors that name options."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer

from keras_resnext import cli
from keras_resnext.benchmark.work import Work
from keras_resnext.cli.from_fields import Changes, CommandError, from_fields, in_flags
from keras_resnext.data import Augmentation
from keras_resnext.serving.server import ServeOptions
from keras_resnext.training import Recipe, RunOptions, train


@dataclass(frozen=True)
class Options:
    count: int = field(default=3, metadata={"help": "How many.", "min": 1, "panel": "Numbers"})
    share: float | None = field(default=None, metadata={"help": "A share."})
    wait: float = field(default=0.5, metadata={"help": "Wait.", "name": "--wait-ms", "unit": 1e-3})
    size: int = field(default=2 << 20, metadata={"help": "Size.", "name": "--size-mb", "unit": 1 << 20})
    kind: str = field(default="sgd", metadata={"help": "Which.", "choices": ("sgd", "adamw")})
    places: tuple[Path, ...] = field(default=(), metadata={"help": "Where.", "name": "--place"})
    pairs: Mapping[str, Any] = field(default_factory=dict, metadata={"help": "What.", "name": "--pair"})
    class_: str | None = field(default=None, metadata={"help": "Class.", "name": "--class"})
    on: bool = field(default=True, metadata={"help": "On."})
    off: bool = field(default=False, metadata={"help": "Off."})
    key: str | None = field(default=None, metadata={"help": "Key.", "envvar": "FROM_FIELDS_KEY"})
    range: tuple[float, float] = field(
        default=(0.1, 1.0), metadata={"help": "From.", "type": float, "read": lambda low: (low, 1.0)}
    )
    inner: int = 7

    def __post_init__(self) -> None:
        if self.count > 9:
            raise ValueError(f"count={self.count!r} must be at most 9; wait_ms=1 and inner=2 and class_ too")


@pytest.fixture
def run():
    """(filled instance, what was given) of a command line."""

    def call(*arguments):
        seen = []

        @from_fields
        def command(options: Options, changes: Annotated[dict[str, Any], Changes(Inner)]) -> None:
            seen.extend([options, changes])

        application = typer.Typer()
        application.command()(command)
        application(args=[str(argument) for argument in arguments], standalone_mode=False)
        return tuple(seen)

    return call


@dataclass(frozen=True)
class Inner:
    epochs: int = field(default=5, metadata={"help": "Epochs.", "min": 1})
    decay: bool = field(default=True, metadata={"help": "Decay."})
    policy: str | None = field(
        default=None,
        metadata={"help": "Policy.", "choices": ("a", "none"), "read": lambda name: None if name == "none" else name},
    )


def test_nothing_given_are_the_defaults(run):
    assert run() == (Options(), {})


def test_every_kind_of_field(run):
    options, changes = run(
        *("--count", 4, "--share", 0.25, "--wait-ms", 20, "--size-mb", 0.5, "--kind", "adamw", "--place", "a"),
        *("--place", "b", "--pair", "x=[1,2]", "--pair", "y=z", "--class", "cat", "--no-on", "--off", "--range", 0.5),
        *("--epochs", 5, "--no-decay", "--policy", "none"),
    )
    assert options == Options(
        count=4, share=0.25, wait=0.02, size=1 << 19, kind="adamw", places=(Path("a"), Path("b")),
        pairs={"x": [1, 2], "y": "z"}, class_="cat", on=False, off=True, range=(0.5, 1.0),
    )  # fmt: skip
    # What was given counts as given, whether or not it is the default.
    assert changes == {"epochs": 5, "decay": False, "policy": None}


def test_the_environment_gives_too(run, monkeypatch):
    monkeypatch.setenv("FROM_FIELDS_KEY", "secret")
    assert run()[0].key == "secret"
    monkeypatch.setenv("FROM_FIELDS_KEY", "")
    assert run()[0].key is None


def test_errors_name_options(run):
    with pytest.raises(CommandError, match=r"^--count 10 must be at most 9; --wait-ms 1 and inner=2 and --class too$"):
        run("--count", 10)
    with pytest.raises(CommandError, match=r"^--kind 'adamv' must be one of sgd, adamw; did you mean adamw\?$"):
        run("--kind", "adamv")
    with pytest.raises(Exception, match=r"x>=1|equal to 1"):
        run("--count", 0)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("val_size=0 must be 1", "--val-size 0 must be 1"),
        ("sync_bn=True is for BatchNorm", "--sync-bn is for BatchNorm"),
        ("give a smaller val_size, and a seed", "give a smaller --val-size, and a seed"),
        ("it differs in recipe.val_size and '/tmp/val_size'", "it differs in recipe.val_size and '/tmp/val_size'"),
        ("interval_size=3", "interval_size=3"),
    ],
)
def test_messages_in_options(message, expected):
    assert in_flags(message, {"val_size": "--val-size", "sync_bn": "--sync-bn", "seed": "--seed"}) == expected


@pytest.mark.parametrize("owner", [Recipe, Augmentation, RunOptions, ServeOptions, Work, Options])
def test_metadata_is_spelled_right(owner):
    known = {"help", "panel", "name", "metavar", "min", "max", "choices", "envvar", "unit", "type", "read", "also"}
    for each in owner.__dataclass_fields__.values():
        assert set(each.metadata) <= known
        assert not each.metadata or each.metadata["help"].endswith(".")


def test_training_names_what_it_does_not_know():
    with pytest.raises(TypeError, match=r"train\(\) has no option 'cashe'; did you mean 'cache'\?"):
        train(None, None, recipe=None, output="nowhere", cashe=True)


def commands():
    application = typer.main.get_command(cli.app)
    for name, command in application.commands.items():
        inner = getattr(command, "commands", {})
        yield from [(name, *([each] if each else [])) for each in inner or [""]]


@pytest.mark.parametrize("command", [*commands()], ids=" ".join)
def test_help_fits_80_columns_and_cuts_nothing(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    shown = []
    for flag in ("--help", "-h"):
        with pytest.raises(SystemExit) as end:
            cli.main([*command, flag])
        assert end.value.code in (0, None)
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]
    lines = shown[0].splitlines()
    assert max(map(len, lines)) <= 80
    # Rich gives the help as much room as a flag: of the longest pair of flags the last two letters are cut.
    cut = [line for line in lines if "--" in line and "… " in line.split("--", 1)[1]]
    assert [line for line in cut if "--no-decay-norm-and-b…" not in line] == []


def test_version_and_completion(capsys, monkeypatch):
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])
    assert end.value.code in (0, None)
    assert capsys.readouterr().out == "keras-resnext 0.1.0\n"
    monkeypatch.setenv("_KERAS_RESNEXT_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "keras-resnext tr")
    monkeypatch.setenv("COMP_CWORD", "1")
    with pytest.raises(SystemExit) as end:
        cli.main([])
    assert (end.value.code, capsys.readouterr().out.split()) == (0, ["train"])
