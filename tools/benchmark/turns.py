"""Processes that take turns at being timed, so that what else the machine does falls on all of them.

Such a process prints "ready", and then a number for each line it is sent.
"""

import subprocess
import time
from collections.abc import Mapping, Sequence


def start(command: Sequence[str]) -> subprocess.Popen[str]:
    """A process that is ready.

    Raises:
        RuntimeError: it ended before.
    """
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, text=True, **pipes)
    while (line := process.stdout.readline()) != "ready\n":
        if not line:
            raise RuntimeError(f"{command} ended with {process.wait()}")
    return process


def take_turns(processes: Mapping[str, subprocess.Popen[str]], rounds: int, rest: float) -> dict[str, list[float]]:
    """What each process printed in each round, with `rest` seconds between turns; then all are ended."""
    printed: dict[str, list[float]] = {label: [] for label in processes}
    for _ in range(rounds):
        for label, process in processes.items():
            process.stdin.write("\n")
            process.stdin.flush()
            printed[label].append(float(process.stdout.readline()))
            time.sleep(rest)
    for process in processes.values():
        process.kill()
    return printed
