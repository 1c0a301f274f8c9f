"""Has Keras know this package's layers, so that saved models find their classes, without importing Keras.

`import keras_resnext` alone must make `keras.saving.load_model` work, in whichever order the two are imported. But the
command line's help and the REST client should not wait seconds for a framework.
"""

import importlib
import importlib.util
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# The modules whose classes saved models may name.
MODULES = ("initializers", "input_preprocessing", "layers", "normalization", "remat")


def register_with_keras() -> None:
    """Imports the layers where Keras is imported already, else as soon as it has been."""
    if "keras" in sys.modules:
        _import_layers()
    elif not any(isinstance(finder, _AfterKeras) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterKeras())


def _import_layers() -> None:
    for name in MODULES:
        importlib.import_module(f".{name}", __package__)


class _AfterKeras(MetaPathFinder):
    """Waits for the one import of Keras, then takes itself away: Keras is imported, then the layers."""

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "keras":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        load = spec.loader.exec_module

        def load_both(module: ModuleType) -> None:
            load(module)
            _import_layers()

        spec.loader.exec_module = load_both  # type: ignore[method-assign]  # of this loader alone
        return spec
