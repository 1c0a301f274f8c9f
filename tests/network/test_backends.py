"""The same layers, models and training on Keras's JAX backend, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "selection"),
    [
        ("network/test_layers.py", "not xla"),
        ("test_model.py", "saves_loads or mixed or feature_maps"),
        ("training/test_training.py", "checkpointing or norm_eval or deep_stem"),
    ],
)
def test_on_jax(file, selection):
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "0", str(HERE / file), "-k", selection],
        env={**os.environ, "KERAS_BACKEND": "jax"},
        cwd=HERE.parent,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]
