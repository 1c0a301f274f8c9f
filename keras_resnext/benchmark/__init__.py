"""How fast this package is beside its peers, on whichever machine it is asked.

Every figure is a ratio of medians. The contenders are processes of their own that take turns, so that what else the
machine does falls on all of them; a peer that is not installed is said to be missing, and the rest runs.
"""

from .rows import ROWS, Row, find_rows
from .runner import Measurement, run_benchmark
from .tables import draw, save, to_json, to_markdown
from .work import Work

__all__ = ["ROWS", "Measurement", "Row", "Work", "draw", "find_rows", "run_benchmark", "save", "to_json", "to_markdown"]
