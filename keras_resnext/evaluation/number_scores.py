"""How good numbers are that a model gives as they are, in NumPy."""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class NumberScores:
    """Errors of each number that an image gets.

    Attributes:
        absolute: float64 (numbers,), mean absolute error, in the number's own unit.
        squared: float64 (numbers,), mean squared error.
        explained: float64 (numbers,), R²: 1 - squared error / variance of the true numbers; NaN where these are equal.
    """

    absolute: np.ndarray
    squared: np.ndarray
    explained: np.ndarray

    @property
    def mae(self) -> float:
        """Mean absolute error of all numbers."""
        return float(self.absolute.mean())

    @property
    def rmse(self) -> float:
        """Square root of the mean squared error of all numbers."""
        return float(np.sqrt(self.squared.mean()))

    @property
    def r2(self) -> float:
        """The mean of R² over the numbers of which it is known."""
        known = self.explained[~np.isnan(self.explained)]
        return float(known.mean()) if len(known) else float("nan")

    def facts(self) -> dict[str, Any]:
        """All of it as JSON has it, null for NaN."""
        return {
            "mae": self.mae,
            "rmse": self.rmse,
            "r2": None if np.isnan(self.r2) else self.r2,
            "each": {
                "mae": self.absolute.tolist(),
                "rmse": np.sqrt(self.squared).tolist(),
                "r2": [None if np.isnan(value) else value for value in self.explained.tolist()],
            },
        }


def score_numbers(numbers: np.ndarray, truths: np.ndarray) -> NumberScores:
    """Measures numbers (n, numbers) against float64 (n, numbers)."""
    errors = numbers.astype("float64") - truths
    squared, variance = (errors**2).mean(0), truths.var(0)
    explained = np.full(len(squared), np.nan)
    np.divide(squared, variance, out=explained, where=truths.max(0) > truths.min(0))
    return NumberScores(np.abs(errors).mean(0), squared, 1 - explained)
