"""Everything that training needs to go on as if nothing had happened, in one file that is whole or not there."""

import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from ..files import placed_whole

_STATE = "state"


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
            self.state: dict[str, Any] = json.loads(str(self._arrays.pop(_STATE)))
        except OSError as error:
            raise ValueError(f"checkpoint={str(path)!r} cannot be read: {error.strerror or error}") from error
        except (ValueError, KeyError, zipfile.BadZipFile, EOFError, zlib.error) as error:
            raise ValueError(
                f"checkpoint={str(path)!r} cannot be read: it is damaged, or no state of a training; delete it to "
                "begin anew"
            ) from error

    def restore(self, group: str, variables: Sequence[Any]) -> None:
        """Assigns the saved values.

        Raises:
            ValueError: other variables than those that were saved.
        """
        saved = [self._arrays[f"{group}/{i}"] for i in range(sum(n.startswith(f"{group}/") for n in self._arrays))]
        shapes = [tuple(array.shape) for array in saved], [tuple(variable.shape) for variable in variables]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"checkpoint={str(self.path)!r} was written by another model or optimizer: "
                f"{len(saved)} variables of {group} against {len(variables)}"
            )
        for variable, array in zip(variables, saved, strict=True):
            variable.assign(array)
