"""A part of a mapped file, read as the pickle in it is decoded: nothing is copied before it is needed."""

from __future__ import annotations

import mmap

from .storage import FormatError

MAX_LINE = 1 << 13  # bytes of names in text
MAX_WIDE = 1 << 24  # bytes of texts beyond Latin-1, which Python holds in up to four times their size
SHORT = 64
_TEXT = (b"X", b"\x8d")  # the opcodes of long texts
_LATIN = bytes(range(0xC4))  # the first bytes of characters up to U+00FF, and all bytes behind a first


class FilePart:
    """What `pickletools.genops` needs of a file.

    Args:
        data: the whole file.
        start, stop: the part's first byte, and the one behind its last.
    """

    def __init__(self, data: mmap.mmap, start: int, stop: int) -> None:
        self.data, self.position, self.stop = data, start, stop
        self.start = start
        self._opcode = b""
        self._wide = 0

    def read(self, count: int) -> bytes:
        chunk = self.data[self.position : min(self.position + count, self.stop)]
        self.position += len(chunk)
        if count == 1:
            self._opcode = chunk
        elif count > SHORT and self._opcode in _TEXT and chunk.translate(None, _LATIN):
            self._wide += len(chunk)
            if self._wide > MAX_WIDE:
                raise FormatError(f"texts of more than {MAX_WIDE} bytes beyond Latin-1")
        return chunk

    def readline(self) -> bytes:
        line = self.data[self.position : min(self.position + MAX_LINE, self.stop)]
        line = line[: line.find(b"\n") + 1]  # without an end it is nothing, which is refused
        self.position += len(line)
        return line

    def tell(self) -> int:
        return self.position - self.start

    def seek(self, position: int) -> None:
        self.position = self.start + position
