"""What the folder of a run holds, by name, and how it is written. No framework is needed."""

from pathlib import Path

from ..files import placed_whole

CHECKPOINT, RUN, HISTORY, CURVES = "checkpoint.npz", "run.json", "history.csv", "curves.png"
LAST, LABELS, BOARD, MISTAKES = "last.keras", "labels.txt", "tensorboard", "mistakes.png"

# States that run.json knows; one that says it is running has been killed if its process is no more.
RUNNING, FINISHED, STOPPED_EARLY, INTERRUPTED, FAILED = "running", "finished", "stopped early", "interrupted", "failed"


def write(path: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    with placed_whole(path) as aside:
        aside.write_text(text, encoding="utf-8")


def write_history(path: Path, history: list[dict[str, float]]) -> None:
    """One line an epoch, as CSV."""
    columns = list(dict.fromkeys(name for row in history for name in row))
    lines = [",".join(columns), *(",".join(f"{row.get(name, '')}" for name in columns) for row in history)]
    write(path, "\n".join(lines) + "\n")
