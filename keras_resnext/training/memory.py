"""How much memory this process can still take: what the machine has left, within the limits of its control groups."""

import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")
_PROCESS = Path("proc/self/cgroup")


def available_memory(root: Path = ROOT) -> int:
    """Bytes that can be used before something is swapped out or killed.

    Args:
        root: where `proc` and `sys` are.
    """
    found = [*_of_the_machine(root), *_of_groups(root)]
    return min(found) if found else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _of_the_machine(root: Path) -> Iterator[int]:
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * 1024


def _of_groups(root: Path) -> Iterator[int]:
    """Limit minus use of this process's group and of each above it; files kept in memory can be given up."""
    for line in _read(root / _PROCESS).splitlines():
        _, controllers, own = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        place = root / "sys/fs/cgroup" / controllers
        limit, use = (
            ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        )
        inside = place / own.lstrip("/")
        # In a container the group that it sees as its own is mounted as the root.
        for folder in dict.fromkeys([inside, *inside.parents, place]):
            if not folder.is_relative_to(place):
                break
            most, used = _read(folder / limit).strip(), _read(folder / use).strip()
            if most.isdigit() and used.isdigit():
                yield max(0, int(most) - int(used) + _given_up(folder))


def _given_up(folder: Path) -> int:
    for line in _read(folder / "memory.stat").splitlines():
        if line.startswith(("inactive_file ", "total_inactive_file ")):
            return int(line.split()[1])
    return 0


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
