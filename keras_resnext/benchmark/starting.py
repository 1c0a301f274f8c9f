"""What one waits for before anything runs: importing, building, the command line's help."""

import subprocess
import sys
from collections.abc import Callable

from .inference_runs import images_of
from .torch_models import load_torchvision
from .work import Seconds, Work

WEIGHTS = "weights.pth"


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


def write_checkpoint(work: Work) -> None:
    import torch

    torch.save(load_torchvision().models.get_model(work.architecture, weights=None).state_dict(), work.folder / WEIGHTS)


def load(work: Work) -> Callable[[], object]:
    """The network built, its weights loaded, one image classified."""
    import keras

    import keras_resnext

    images = images_of(work)

    def run() -> object:
        keras.backend.clear_session()
        return keras.ops.convert_to_numpy(keras_resnext.from_pytorch(work.folder / WEIGHTS)(images, training=False))

    return run


def load_torchvision_model(work: Work) -> Callable[[], object]:
    import torch

    torchvision = load_torchvision()
    torch.set_num_threads(work.threads)
    images = torch.tensor(images_of(work)).permute(0, 3, 1, 2)

    def run() -> object:
        model = torchvision.models.get_model(work.architecture, weights=None)
        model.load_state_dict(torch.load(work.folder / WEIGHTS, weights_only=True))
        with torch.inference_mode():
            return model.eval()(images)

    return run


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
