"""Everything that training needs to go on as if nothing had happened, in one file that is whole or not there."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from ..files import placed_whole

_STATE = "state"


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def _is_number(value: Any) -> bool:
    return _is_count(value) or (isinstance(value, float) and math.isfinite(value))


def _is_history(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(row, dict) and {"epoch", "loss", "seconds"} <= row.keys() and all(map(_is_number, row.values()))
        for row in value
    )


_ENTRIES: dict[str, Callable[[Any], bool]] = {
    "step": _is_count,
    "head": lambda value: isinstance(value, bool),
    "best": _is_number,
    "best_epoch": _is_count,
    "history": _is_history,
    "inside": lambda value: isinstance(value, bool),
    "spent": _is_number,
}


class TrainingDivergedError(RuntimeError):
    """The loss or a weight is no number any more."""


def save_state(path: Path, variables: Mapping[str, Sequence[Any]], state: Mapping[str, Any]) -> None:
    """Writes groups of variables and what JSON can hold to `path`, aside and then renamed.

    Raises:
        OSError: the disk refuses; what was at `path` is still there.
    """
    arrays: dict[str, Any] = {_STATE: np.array(json.dumps(state))} | {
        f"{group}/{index}": _as_array(variable)
        for group, members in variables.items()
        for index, variable in enumerate(members)
    }
    with placed_whole(path) as aside:
        np.savez(aside, **arrays)


def find_not_finite(model: keras.Model) -> str | None:
    """The path of a weight or a statistic that holds NaN or an infinite value; None where there is none."""
    return next((weight.path for weight in model.weights if not np.isfinite(_as_array(weight)).all()), None)


def _as_array(variable: Any) -> np.ndarray:
    """In a type that NumPy's files know: bfloat16 as float32."""
    array = keras.ops.convert_to_numpy(variable)
    return array.astype("float32") if array.dtype.kind == "V" else array


class SavedState:
    """What `save_state` wrote.

    Attributes:
        state: the JSON part.

    Raises:
        ValueError: from the constructor, if the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with np.load(path) as data:
                self._arrays = dict(data)
            self.state: dict[str, Any] = dict(json.loads(str(self._arrays.pop(_STATE))))
        except OSError as error:
            raise ValueError(f"checkpoint={str(path)!r} cannot be read: {error.strerror or error}") from error
        except MemoryError as error:
            raise ValueError(f"checkpoint={str(path)!r} cannot be read: it needs more memory than there is") from error
        except Exception as error:  # NumPy and zipfile raise anything at all on a file that was changed
            raise self._damaged("damaged, or no state of a training") from error

    def _damaged(self, what: str) -> ValueError:
        return ValueError(f"checkpoint={str(self.path)!r} cannot be read: it is {what}; delete it to begin anew")

    def check_progress(self, steps_per_epoch: int, epochs: int) -> None:
        """Checks that the saved state belongs to a run of `epochs` epochs.

        Raises:
            ValueError: an entry is missing, of another type, or does not fit the others.
        """
        for name, right in _ENTRIES.items():
            if name not in self.state or not right(self.state[name]):
                raise self._damaged(f"no state of a training: its {name!r} is missing or not what training writes")
        step, history = self.state["step"], self.state["history"]
        fits = len(history) == step // steps_per_epoch <= epochs and self.state["best_epoch"] <= len(history)
        if not fits or step > epochs * steps_per_epoch:
            raise self._damaged(
                f"no state of this training: step {step} after {len(history)} epochs, best {self.state['best_epoch']}, "
                f"of {epochs} epochs with {steps_per_epoch} steps"
            )

    def restore(self, group: str, variables: Sequence[Any]) -> None:
        """Assigns the saved values.

        Raises:
            ValueError: other variables than those that were saved.
        """
        names = [f"{group}/{index}" for index in range(sum(n.startswith(f"{group}/") for n in self._arrays))]
        saved = [self._arrays[name] for name in names if name in self._arrays]
        if len(saved) < len(names) or any(array.dtype.kind not in "biuf" for array in saved):
            raise self._damaged(f"no state of a training: {group} has entries that training does not write")
        shapes = [tuple(array.shape) for array in saved], [tuple(variable.shape) for variable in variables]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"checkpoint={str(self.path)!r} was written by another model or optimizer: "
                f"{len(saved)} variables of {group} against {len(variables)}"
            )
        for variable, array in zip(variables, saved, strict=True):
            variable.assign(array)
