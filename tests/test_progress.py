"""How far long work is: a bar on a terminal, lines where output is piped, nothing where it is quiet."""

from io import StringIO

import pytest
from rich.console import Console

from keras_resnext import progress
from keras_resnext.progress import Bar, track


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_lines_where_output_is_piped(clock):
    console = Console(file=(out := StringIO()), width=20)
    with Bar("Training", 100, console, done=10, unit="images", per_step=4, every=30) as bar:
        for _ in range(90):
            clock[0] += 1
            bar.advance(1, "epoch 1/2  loss [0.5]")
    assert out.getvalue().splitlines() == [
        "Training 40/100  epoch 1/2  loss [0.5]  4 images/s  1 min left",
        "Training 70/100  epoch 1/2  loss [0.5]  4 images/s  30 s left",
    ]  # and none for the end


def test_what_happens_between_the_steps_has_lines_too(clock):
    """Validation, behind the last step of an epoch and of all."""
    console = Console(file=(out := StringIO()), width=20)
    with Bar("Training", 2, console, every=30) as bar:
        bar.advance(2, "epoch 1/1")
        for batch in range(90):
            clock[0] += 1
            bar.note(f"validating, batch {batch + 1}/90")
    lines = [f"Training 2/2  validating, batch {batch}/90" for batch in (30, 60, 90)]
    assert out.getvalue().splitlines() == lines


def test_a_bar_on_a_terminal(clock):
    console = Console(file=(out := StringIO()), width=120, force_terminal=True)
    with Bar("Writing", 8, console, unit="images") as bar:
        clock[0] = 2.0
        bar.update(4, "shard [1]")
    assert "Writing  shard [1]" in out.getvalue()
    assert "4/8" in out.getvalue()
    assert "2 images/s" in out.getvalue()


def test_nothing_where_it_is_quiet(clock):
    console = Console(file=(out := StringIO()), quiet=True, force_terminal=True)
    for _ in track("Reading", range(3), 3, console):
        clock[0] += 100
    assert out.getvalue() == ""


def test_items_are_given_in_order_and_counted(clock):
    console = Console(file=(out := StringIO()), width=20)
    found = []
    for item in track("Reading", iter("abc"), 3, console, unit="files"):
        clock[0] += 4000
        found.append(item)
    assert found == ["a", "b", "c"]
    assert out.getvalue().splitlines() == [
        "Reading 1/3  0.00025 files/s  2 h 13 min left",
        "Reading 2/3  0.00025 files/s  1 h 7 min left",
    ]
