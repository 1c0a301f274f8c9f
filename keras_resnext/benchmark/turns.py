"""Processes that take turns at being timed, so that what else the machine does falls on all of them.

Such a process prints "ready", and then for each line that it is sent the seconds that its work took and the most memory
it has held so far, in bytes.
"""

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence

UNCOUNTED = 1  # rounds before the first that counts: a process waits while the others get ready
REST = 0.3  # seconds between turns: threads keep spinning for a while


class ContenderError(RuntimeError):
    """A process that ended before it was ready; the text is the last line it wrote."""


def start(command: Sequence[str], environment: Mapping[str, str] | None = None) -> "subprocess.Popen[str]":
    """A process that is ready.

    Raises:
        ContenderError: it ended before.
    """
    with tempfile.TemporaryFile("w+") as told:  # a pipe would fill up
        process = subprocess.Popen(
            command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=told, env=environment,
            start_new_session=True,
        )  # fmt: skip
        assert process.stdout is not None
        while (line := process.stdout.readline()) != "ready\n":
            if not line:
                code = process.wait()
                told.seek(0)
                raise ContenderError((told.read().strip().splitlines() or [f"ended with {code}"])[-1])
    return process


def end(process: "subprocess.Popen[str]") -> None:
    """Ends a process of `start` and those that it has started."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()


def take_turns(
    processes: Mapping[str, "subprocess.Popen[str]"], rounds: int, rest: float = REST
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Seconds that each process took in each round, and the most memory it held; then all are ended.

    Each round begins with the next of them, so that none always follows the same one.
    """
    seconds: dict[str, list[float]] = {label: [] for label in processes}
    memory: dict[str, int] = {}
    labels = list(processes)
    try:
        for number in range(UNCOUNTED + rounds):
            first = number % len(labels)
            for label in labels[first:] + labels[:first]:
                process = processes[label]
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write("\n")
                process.stdin.flush()
                answer = process.stdout.readline().split()
                if len(answer) != 2:
                    raise ContenderError(f"{label} ended with {process.wait()}, of too little memory perhaps")
                if number >= UNCOUNTED:
                    seconds[label].append(float(answer[0]))
                memory[label] = int(answer[1])
                time.sleep(rest)
    finally:
        for process in processes.values():
            end(process)
    return seconds, memory
