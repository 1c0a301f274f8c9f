"""Public names, what importing costs and touches, and which module may import which."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import keras_resnext

PACKAGE = Path(keras_resnext.__file__).parent

PUBLIC = {
    *("ResNeXt", "ResNeXt50", "ResNeXt101", "ResNeXt152", "create", "list_architectures", "GroupedConv2D"),
    *("from_pytorch", "load_pytorch_weights", "save_pytorch_weights", "from_pretrained", "list_pretrained"),
    *("preprocess_input", "decode_predictions", "Preprocessing", "get_preprocessing", "set_preprocessing"),
    *("evaluate", "explain", "export", "serving"),
}


def python(code, **environment):
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_public_names():
    assert set(keras_resnext.__all__) == PUBLIC
    for name in PUBLIC:
        assert getattr(keras_resnext, name).__doc__
    assert callable(keras_resnext.export.export_saved_model)


def test_unknown_names_are_attribute_errors():
    assert not hasattr(keras_resnext, "ResNeXt51")


def test_importing_registers_what_saved_models_need():
    names = "import keras_resnext, keras; print(*keras.saving.get_custom_objects())"
    assert {"keras_resnext>GroupedConv2D", "keras_resnext>BatchNorm", "keras_resnext>RematResNeXt"} <= set(
        python(names).split()
    )


def test_imports_on_jax_where_tensorflow_is_absent():
    code = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tensorflow", "torch"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import keras_resnext, numpy as np
import keras_resnext.cli, keras_resnext.export
model = keras_resnext.ResNeXt(blocks=(1, 1, 1, 1), groups=2, base_channels=8, classes=3, input_shape=(32, 32, 3))
print(model.predict(np.zeros((1, 32, 32, 3)), verbose=0).shape, keras_resnext.decode_predictions is not None)
"""
    assert python(code, KERAS_BACKEND="jax") == "(1, 3) True"


def test_importing_changes_no_state_and_costs_little():
    """Modules counted instead of milliseconds: beyond Keras only this package and Pillow."""
    code = """
import os, sys
import keras
environment, modules = dict(os.environ), set(sys.modules)
import keras_resnext
assert dict(os.environ) == environment
assert keras.config.dtype_policy().name == "float32"
extra = {name.split(".")[0] for name in set(sys.modules) - modules}
print(*sorted(extra - set(sys.stdlib_module_names)))
"""
    assert set(python(code).split()) <= {"keras_resnext"}


# A module imports only what its line names; `model` reaches up to `pretrained` when a file is asked for.
ALLOWED = {
    "architectures": set(),
    "options": {"architectures"},
    "published": set(),
    "layers": {"published"},
    "normalization": {"options"},
    "remat": set(),
    "model": {"architectures", "layers", "normalization", "options", "published", "remat", "pretrained"},
    "preprocessing": {"layers", "published"},
    "download": set(),
    "keras_files": {"published", "pytorch"},
    "pretrained": {"download", "keras_files", "model", "preprocessing", "published", "pytorch"},
    "loading": {"architectures", "keras_files", "model", "pretrained", "published", "pytorch"},
    "prediction": {"classifier", "preprocessing"},
    "complexity": {"architectures", "options"},
    "info": {"architectures", "complexity", "download", "keras_files", "published", "pytorch"},
    "files": set(),
    "probing": {"classifier"},
    "drawing": {"files"},
    "explain": {"classifier", "drawing", "prediction", "preprocessing", "probing"},
    "verification": {"pytorch"},
    "conversion": {
        *("keras_files", "loading", "preprocessing", "pretrained", "published", "pytorch", "verification"),
    },
    "pytorch": {"architectures", "layers", "normalization", "options", "model", "pytorch"},
    "export": {
        *("classifier", "digits", "download", "layers", "model_base", "normalization", "preprocessing", "export"),
    },
    "classifier": {"preprocessing"},
    "serving": {"serving"},  # the clients; the server is another thing
    "serving/server": {
        *("classifier", "download", "explain", "export", "loading", "model_base", "model_config", "preprocessing"),
        *("pretrained", "probing", "serving"),
    },
    "model_config": set(),
    "model_base": {"download", "files", "model_config"},
    "data": {"data", "files", "preprocessing", "published"},
    "distribution": set(),
    "plots": {"files"},
    "training": {
        *("architectures", "classifier", "data", "distribution", "files", "keras_files", "model", "plots"),
        *("preprocessing", "published", "training"),
    },
    "runtimes": {"classifier", "loading", "prediction", "preprocessing", "published", "export"},
    "metrics": set(),
    "evaluation_plots": {"metrics"},
    "evaluation": {"classifier", "data", "evaluation_plots", "files", "metrics", "runtimes"},
    "digits": set(),
    "quickstart": {"digits", "model", "preprocessing", "export"},
    "benchmark": {"architectures", "benchmark", "complexity", "files", "plots"},
}


def imported(path):
    """Names of this package's modules that the file at `path` imports, wherever in it."""
    inside = path.relative_to(PACKAGE).parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            above = inside[: len(inside) - node.level]
            yield (*above, *(node.module or "").split("."))[0] or node.names[0].name


def test_modules_import_only_downwards():
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        module = "serving/server" if parts[:2] == ("serving", "server") else parts[0]
        if module in ("__init__", "cli"):
            continue
        assert module in ALLOWED, f"{module} is not in the table"
        assert set(imported(path)) <= ALLOWED[module], path


def test_modules_are_small():
    sizes = {str(path.relative_to(PACKAGE)): len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    assert not {name: size for name, size in sizes.items() if size > 400}
