"""What one waits for before anything runs: importing, building, the command line's help."""

import subprocess
import sys
from collections.abc import Callable

from .torch_models import load_torchvision
from .work import Seconds, Work


def build(work: Work) -> Callable[[], object]:
    import keras

    import keras_resnext

    def run() -> object:
        keras.backend.clear_session()
        return keras_resnext.create(work.architecture)

    return run


def build_keras(work: Work) -> Callable[[], object]:
    """A ResNet of Keras's own as deep as it: what building layers takes in Keras at all."""
    import keras

    depth = "".join(filter(str.isdigit, work.architecture.partition("_")[0]))

    def run() -> object:
        keras.backend.clear_session()
        return getattr(keras.applications, f"ResNet{depth}")(weights=None)

    return run


def build_torchvision(work: Work) -> Callable[[], object]:
    torchvision = load_torchvision()
    return lambda: torchvision.models.get_model(work.architecture, weights=None)


def import_package(work: Work) -> Callable[[], Seconds]:
    """Seconds by the new interpreter's own clock, Keras and its backend imported before."""
    code = "import keras, time; start = time.perf_counter(); import keras_resnext; print(time.perf_counter() - start)"
    return lambda: Seconds(_python(code))


def command_line(work: Work) -> Callable[[], object]:
    code = "import sys; sys.argv = ['keras-resnext', '--help']; from keras_resnext.cli import run; run()"
    return lambda: _python(code)


def _python(code: str) -> str:
    """What a new interpreter prints, from its start to its end."""
    command = [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path[:1]!r}; {code}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
