"""How far long work is: a bar on a terminal, a line now and then where output is piped, nothing where it is quiet."""

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from .terminal import printable

LINE_SECONDS = 30.0  # between two lines where there is no terminal

Item = TypeVar("Item")


class Bar:
    """Work in progress; `advance` it, or `update` it to a place.

    Args:
        what: the work, such as "Writing".
        total: how many steps there are.
        console: where to show it; one that is quiet shows nothing.
        done: steps that are done before it starts.
        unit: what is counted by the second, such as "images".
        per_step: how many of them a step has.
        every: seconds between two lines where the console is no terminal.
    """

    def __init__(
        self,
        what: str,
        total: int,
        console: Console,
        *,
        done: int = 0,
        unit: str = "",
        per_step: int = 1,
        every: float = LINE_SECONDS,
    ) -> None:
        what = printable(what)
        self.what, self.total, self.done, self.console = what, total, done, console
        self.unit, self.per_step, self.every = unit, per_step, every
        self.first, self.started = done, time.monotonic()
        self.told = self.started
        self.bar: Progress | None = None
        if console.is_terminal and not console.quiet:
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(None),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
            )
            self.bar = Progress(*columns, console=console, transient=True)
            self.task = self.bar.add_task(what, total=total, completed=done, rate="")

    def __enter__(self) -> "Bar":
        self.started = self.told = time.monotonic()
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar:
            self.bar.stop()

    def advance(self, steps: int = 1, note: str = "") -> None:
        """`steps` more are done; `note` stands beside the work until the next note."""
        self.update(self.done + steps, note)

    def note(self, text: str) -> None:
        """No further step is done, but `text` is; it stands beside the work until the next note."""
        self._show(text, own=True)

    def update(self, done: int, note: str = "") -> None:
        """`done` steps are done in all."""
        self.done = done
        self._show(note, own=False)

    def _show(self, note: str, *, own: bool) -> None:
        """`own`: whether the note is worth a line where all steps are done."""
        done, now, note = self.done, time.monotonic(), printable(note)
        spent = now - self.started
        rate = ""
        if self.unit and spent > 0 and done > self.first:
            rate = f"{(done - self.first) * self.per_step / spent:.3g} {self.unit}/s"
        if self.bar:
            shown = f"{self.what}  {note}" if note else self.what
            self.bar.update(self.task, completed=done, description=shown, rate=rate)
        elif now - self.told >= self.every and (own or done < self.total):
            self.told = now
            left = (
                f"{_duration(spent / (done - self.first) * (self.total - done))} left"
                if self.first < done < self.total
                else ""
            )
            facts = [f"{self.what} {done}/{self.total}", note, rate, left]
            self.console.print("  ".join(fact for fact in facts if fact), markup=False, highlight=False, soft_wrap=True)


def track(what: str, items: Iterable[Item], total: int, console: Console, *, unit: str = "") -> Iterator[Item]:
    """The items, one step each."""
    with Bar(what, total, console, unit=unit) as bar:
        for item in items:
            yield item
            bar.advance()


def _duration(seconds: float) -> str:
    """Such as "45 s", "12 min" or "3 h 20 min"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
