"""Built-in exceptions for what TensorFlow, JAX and HDF5 raise when a disk refuses or memory is short."""

import errno
import os
import sys

# What a disk answers; TensorFlow and HDF5 pass the system's words on inside exceptions of their own.
REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
_NO_MEMORY = ("RESOURCE_EXHAUSTED", "failed to allocate memory", "bad_alloc", "bad allocation")


def as_built_in(error: BaseException, path: str | os.PathLike[str] | None = None) -> Exception | None:
    """An OSError or MemoryError that says in one line what `error` does; None where that is neither, or is one already.

    TensorFlow's ResourceExhaustedError stands for both: the system's own words tell a full disk from too little memory.

    Args:
        error: any exception.
        path: of what was being written, for the message.
    """
    if isinstance(error, (OSError, MemoryError)):
        return None
    text = str(error)
    own = is_tensorflow_error(error) or type(error) is RuntimeError  # HDF5's
    for code in REFUSALS if own else ():
        if os.strerror(code) in text:
            return OSError(code, os.strerror(code), None if path is None else os.fspath(path))
    if is_out_of_memory(error):
        return MemoryError((text.splitlines() or [""])[0])
    return None


def is_tensorflow_error(error: BaseException) -> bool:
    """Whether TensorFlow raised it; its errors have no base class but Exception."""
    tensorflow = sys.modules.get("tensorflow")
    return tensorflow is not None and isinstance(error, tensorflow.errors.OpError)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the machine had too little memory, in Python's, TensorFlow's or JAX's words."""
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is not None and isinstance(error, tensorflow.errors.ResourceExhaustedError):
        return True
    known = isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)
    return isinstance(error, MemoryError) or known
