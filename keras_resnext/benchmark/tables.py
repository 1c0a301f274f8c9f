"""Measurements as a table, as JSON, as Markdown and as an image."""

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..figures import new_figure, save_figure
from ..files import placed_whole
from .rows import GROWTH, GROWTH_BATCHES, GROWTH_SIZES, ROWS
from .runner import Measurement
from .work import CONTENDERS

COLUMNS = ("work", "ours", "peer", "ours ms", "peer ms", "figure", "bar", "of the limit", "memory MB")
_KNOWN = ROWS | GROWTH
_OURS, _MISSED, _PEER, _BAR = "#1565c0", "#b71c1c", "#9e9e9e", "#e65100"


def table(found: Sequence[Measurement]) -> list[tuple[str, ...]]:
    """The cells under `COLUMNS` of each measurement."""
    return [tuple(_cells(measured)) for measured in found]


def _cells(measured: Measurement) -> Iterator[str]:
    row = _KNOWN[measured.row]
    yield row.title
    for name in (measured.ours or row.ours[0], measured.peer):
        yield CONTENDERS[name].label if name else "–"
    for name in (measured.ours, measured.peer):
        values = measured.seconds.get(name)
        yield _milliseconds(values) if values else "–"
    missed = ", missed" if is_missed(measured) else ""
    yield f"not measured: {measured.missing}" if measured.missing else _figure(row.figure, measured.figure) + missed
    yield "–" if row.bar is None else f"≤ {_figure(row.figure, row.bar)}"
    yield "–" if measured.limit is None else f"{measured.limit:.0%}"
    yield f"{measured.memory[measured.ours] / 1e6:.0f}" if measured.ours in measured.memory else "–"


def is_missed(measured: Measurement) -> bool:
    """Whether the figure is above the row's bar."""
    bar = _KNOWN[measured.row].bar
    return bar is not None and measured.figure is not None and measured.figure > bar


def _milliseconds(seconds: Sequence[float]) -> str:
    """The median, and between what the middle half lay."""
    values = [1e3 * value for value in seconds]
    if len(values) < 4:
        return f"{statistics.median(values):.1f}"
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.1f} ({low:.1f}–{high:.1f})"


def _figure(kind: str, value: float | None) -> str:
    if value is None:
        return "–"
    if kind == "seconds":
        return f"{value:.3f} s"
    return f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def absences(found: Sequence[Measurement]) -> list[str]:
    """Which peers did not run, and why, a line each."""
    reasons = {name: why for measured in found for name, why in measured.absent.items()}
    return [f"Without {CONTENDERS[name].label}: {why}" for name, why in reasons.items()]


def to_json(machine: Mapping[str, Any], found: Sequence[Measurement]) -> str:
    return json.dumps({"machine": machine, "rows": [asdict(measured) for measured in found]}, indent=1) + "\n"


def describe(machine: Mapping[str, Any]) -> list[str]:
    """The machine in a few lines."""
    lines = [f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads; {machine['system']}"]
    if machine["gpu"]:
        lines.append(f"GPU: {machine['gpu']}")
    lines.append(", ".join(f"{name} {number}" for name, number in machine["versions"].items()))
    peaks = [f"{peak / 1e9:.0f} GFLOP/s ({kind})" for kind, peak in machine["peak_flops"].items() if peak]
    if machine["peak_bytes_per_second"]:
        peaks.append(f"{machine['peak_bytes_per_second'] / 1e9:.1f} GB/s (copy)")
    return [*lines, "Measured limits: " + (", ".join(peaks) or "none")]


def to_markdown(machine: Mapping[str, Any], found: Sequence[Measurement]) -> str:
    """A table for documents, behind the machine it was measured on."""
    lines = [*describe(machine), "", "| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines[0] = f"Measured on {machine['date']}. {lines[0]}"
    lines += ["| " + " | ".join(cells) + " |" for cells in table(found)]
    notes = absences(found)
    return "\n".join([*lines, *([""] if notes else []), *notes]) + "\n"


def draw(path: Path, found: Sequence[Measurement]) -> None:
    """Writes a PNG of bars: our time as a share of the fastest peer's, with the bar marked and missed ones in red."""
    shown = [m for m in found if m.figure is not None and _KNOWN[m.row].figure != "seconds"]
    figure = new_figure((8.5, 1 + 0.42 * max(len(shown), 1)))
    axis = figure.subplots()
    for place, measured in enumerate(reversed(shown)):
        row, value = _KNOWN[measured.row], float(measured.figure or 0)
        axis.barh(place, value, color=_MISSED if is_missed(measured) else _OURS, height=0.6)
        inside = value > 0.2  # at a bar's root, clear of what is promised
        axis.text(
            0.03 if inside else value + 0.03, place, _figure("ratio", value), va="center", fontsize=9,
            color="white" if inside else "black",
        )  # fmt: skip
        if row.bar is not None:
            axis.plot([row.bar] * 2, [place - 0.4, place + 0.4], color=_BAR, linewidth=2)
    axis.axvline(1, color=_PEER, linestyle="--", linewidth=1)
    axis.set_yticks(range(len(shown)), [f"{_KNOWN[m.row].title}\nvs {_peer(m)}" for m in reversed(shown)], fontsize=8)
    axis.set_xlim(0, max([1.3, *(1.15 * float(m.figure or 0) for m in shown)]))
    axis.set_xlabel("ours as a share of the fastest peer's (orange: the bar; red: missed)")
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    save_figure(figure, path)


def _peer(measured: Measurement) -> str:
    return CONTENDERS[measured.peer].label if measured.peer else ""


def draw_growth(path: Path, found: Sequence[Measurement]) -> None:
    """Writes a PNG of the time by area and by batch, beside straight lines through nothing and the middle."""
    times = {m.row: m.figure for m in found if m.row in GROWTH}
    figure = new_figure((8, 3.4))
    series: list[tuple[str, list[tuple[float, float | None]]]] = [
        (
            "1000 pixels of an image, batch 8",
            [(size**2 / 1000, times.get(f"growth-{size}-8")) for size in GROWTH_SIZES],
        ),
        ("images in a batch, 224x224", [(batch, times.get(f"growth-224-{batch}")) for batch in GROWTH_BATCHES]),
    ]
    for axis, (label, points) in zip(figure.subplots(1, 2), series, strict=True):
        known = [(x, 1e3 * y) for x, y in points if y is not None]
        if known:
            x, y = zip(*known, strict=True)
            axis.plot(x, y, "o-", color=_OURS)
            each = statistics.median(b / a for a, b in known)
            axis.plot([0, x[-1]], [0, each * x[-1]], "--", color=_PEER, linewidth=1)
            axis.set_title(f"linear within {max(abs(b / a / each - 1) for a, b in known):.0%}", fontsize=10)
        axis.set_xlabel(label)
        axis.set_ylabel("ms")
        axis.set_ylim(0)
        axis.grid(alpha=0.3)
    save_figure(figure, path)


def save(folder: Path, machine: Mapping[str, Any], found: Sequence[Measurement]) -> list[Path]:
    """Writes benchmark.json, benchmark.md and images into `folder`; what was not measured has no image."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "benchmark.json", folder / "benchmark.md"]
    for path, text in zip(paths, (to_json(machine, found), to_markdown(machine, found)), strict=True):
        with placed_whole(path) as aside:
            aside.write_text(text, encoding="utf-8")
    if any(m.row in ROWS and m.figure is not None for m in found):
        draw(folder / "benchmark.png", found)
        paths.append(folder / "benchmark.png")
    if any(m.row in GROWTH and m.seconds for m in found):
        draw_growth(folder / "growth.png", found)
        paths.append(folder / "growth.png")
    return paths
