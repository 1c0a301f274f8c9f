"""Public names, what importing costs and touches, and which module may import which."""

import ast
import graphlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import keras_resnext

PACKAGE = Path(keras_resnext.__file__).parent

PUBLIC = {
    *("ResNeXt", "ResNeXt50", "ResNeXt101", "ResNeXt152", "create", "list_architectures", "GroupedConv2D"),
    *("from_pytorch", "load_pytorch_weights", "save_pytorch_weights", "from_pretrained", "list_pretrained"),
    *("preprocess_input", "decode_predictions", "Preprocessing", "get_preprocessing", "set_preprocessing"),
    *("evaluate", "explain", "export", "serving"),
}

QUICK = {"KERAS_BACKEND": "jax"}  # imports Keras in less than half the time, where the backend is not the point


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


def test_completion_shows_the_public_names_alone():
    assert set(dir(keras_resnext)) == PUBLIC
    code = "import keras_resnext; print(*dir(keras_resnext))"
    assert set(python(code).split()) == PUBLIC


@pytest.mark.parametrize("imports", ["keras_resnext, keras", "keras, keras_resnext", "keras_resnext.serving, keras"])
def test_importing_registers_what_saved_models_need(imports):
    names = set(python(f"import {imports}; print(*keras.saving.get_custom_objects())", **QUICK).split())
    assert {"keras_resnext>GroupedConv2D", "keras_resnext>BatchNorm", "keras_resnext>Recompute"} <= names


@pytest.mark.parametrize("module", ["keras_resnext", "keras_resnext.serving", "keras_resnext.cli"])
def test_importing_loads_no_framework(module):
    assert (
        python(f"import sys, {module}; print({{'keras', 'tensorflow', 'torch', 'jax'}} & set(sys.modules))") == "set()"
    )


def test_the_import_hook_leaves_once_keras_is_imported():
    shown = "print([finder for finder in sys.meta_path if 'keras_resnext' in type(finder).__module__] == [])"
    assert python(f"import sys, keras_resnext; {shown}; import keras; {shown}", **QUICK).split() == ["False", "True"]


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


@pytest.mark.parametrize(
    "module", ["initializers", "layers", "lowerings", "normalization", "input_preprocessing", "remat", "blocks"]
)
def test_any_module_may_be_the_first_to_import_keras(module):
    code = f"import keras_resnext.network.{module}, keras; print(*keras.saving.get_custom_objects())"
    assert {"keras_resnext>GroupedConv2D", "keras_resnext>BatchNorm"} <= set(python(code, **QUICK).split())


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
    assert set(python(code, **QUICK).split()) <= {"keras_resnext", "lazy_loader", "PIL"}


# From top to bottom: a file or folder of the package imports only what stands in a later row, or its own folder.
LAYERS = (
    {"__main__"},
    {"cli"},
    {"benchmark", "serving"},
    {"quickstart"},
    {"training"},
    {"data_check"},
    {"conversion", "evaluation", "explain", "export"},
    {"classifier", "verification"},
    {"loading"},
    {"model", "runtimes"},
    {"weights"},
    {"data", "network"},
    {"multichannel"},
    {"digits", "labels", "preprocessing", "pytorch", "views"},
    {"figures"},
    {"files", "progress"},
    {"claims", "terminal"},
    {"os_errors"},
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def imported(path: Path) -> set[str]:
    """The package's modules, by dotted name, that the file at `path` imports, wherever in it."""
    package = path.relative_to(PACKAGE).parts[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*package[: len(package) - node.level + 1], *(node.module.split(".") if node.module else ())]
            for alias in node.names:
                inner = PACKAGE.joinpath(*base, alias.name)
                is_module = inner.with_suffix(".py").exists() or inner.is_dir()
                found.add(".".join([*base, alias.name] if is_module else base))
    return found


def modules() -> dict[str, Path]:
    names = {path: path.relative_to(PACKAGE).with_suffix("").parts for path in PACKAGE.rglob("*.py")}
    return {".".join(part for part in parts if part != "__init__"): path for path, parts in names.items()}


def test_imports_go_down_alone():
    for name, path in modules().items():
        unit = name.split(".")[0]
        if not unit:
            continue
        assert unit in LEVEL, f"{unit} stands in no layer"
        for target in imported(path) - {""}:  # the version
            below = target.split(".")[0]
            assert below == unit or LEVEL[below] > LEVEL[unit], f"{name} imports {target}"


def test_no_module_imports_itself_in_a_circle():
    graph = {name: imported(path) - {""} for name, path in modules().items()}
    try:
        tuple(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        raise AssertionError(f"a circle: {' -> '.join(error.args[1])}") from None


def test_file_names_do_not_repeat():
    names = [path.name for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"]
    assert sorted({name for name in names if names.count(name) > 1}) == []


def test_modules_are_small():
    sizes = {str(path.relative_to(PACKAGE)): len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    assert not {name: size for name, size in sizes.items() if size > 300}
