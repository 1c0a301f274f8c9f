"""The same layers, models and training on Keras's JAX backend, in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parents[1]

# Files and what of them runs.
SELECTIONS = {
    "network/test_layers.py": "not xla",
    "test_model.py": "saves_loads or mixed_bfloat16 or feature_maps",
    "training/test_training.py": "options0 or checkpointing_draws or norm_eval",
}
# One process imports and compiles what the files share once; a file of which nothing was selected ends with 5.
CODE = """
import json, pytest, sys
for file, selection in json.loads(sys.argv[1]).items():
    code = pytest.main(["-q", "-p", "no:cacheprovider", "-n", "0", file, "-k", selection])
    if code:
        sys.exit(f"{file}: {code!r}")
"""


@pytest.mark.slow
def test_on_jax():
    selections = {str(HERE / file): selection for file, selection in SELECTIONS.items()}
    result = subprocess.run(
        [sys.executable, "-c", CODE, json.dumps(selections)],
        # Nearly all of the time is XLA optimising code that runs once.
        env={**os.environ, "KERAS_BACKEND": "jax", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
        cwd=HERE.parent,
        capture_output=True,
        text=True,
        timeout=850,
    )
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]
