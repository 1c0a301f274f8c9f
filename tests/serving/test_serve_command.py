"""`keras-resnext serve`: what it refuses, which extras it names, and a .keras file that it exports once."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from keras_resnext import preprocess_input
from keras_resnext.serving import Client
from tests.serving.material import IMAGES, LABELS, PNG
from tests.serving.server_process import ROOT, Server


def command(*arguments, **environment):
    code = "from keras_resnext.cli import run; run()"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, **environment}, cwd=ROOT,
    )  # fmt: skip


def test_what_the_command_refuses(tmp_path, base, plain):
    cases = [
        ((tmp_path / "missing.keras",), "there is no such file"),
        ((tmp_path,), "holds no model: expected BASE/NAME/VERSION/saved_model.pb"),
        ((base, "--port", plain.port), "cannot listen there: Address already in use"),
        ((base, "--host", "no.such.host.invalid"), "cannot listen there"),
        ((base, "--labels", "x"), "the exports in BASE"),
        ((base, "--api-key", "a b"), "--api-key '…' must be visible ASCII characters"),
        ((base, "--max-batch", 0), "greater than or equal to 1"),
    ]
    for arguments, message in cases:
        result = command("serve", *arguments)
        assert (result.returncode, result.stdout) == (2, "")
        assert len(result.stderr.splitlines()) == 1
        assert message in result.stderr


def test_missing_extras_are_named(base):
    absent = "import sys; sys.modules[{!r}] = None; sys.argv = ['keras-resnext', 'serve', {!r}, '--port', '0', *{!r}]\n"
    absent += "from keras_resnext.cli import run; run()"
    for module, options, extra in (("uvicorn", [], "serve"), ("tensorflow_serving", ["--grpc-port", "0"], "grpc")):
        code = absent.format(module, str(base), options)
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert result.returncode == 2
        assert f"pip install 'keras_resnext[{extra}]'" in result.stderr.splitlines()[-1]


def test_a_keras_file_is_exported_once_and_served(model, tmp_path):
    file = tmp_path / "mine.keras"
    model.save(file)
    (tmp_path / "labels.txt").write_text("\n".join(LABELS), encoding="utf-8")
    code = "from keras_resnext.cli import run; run()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "serve", str(file), "--port", "0"], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "KERAS_HOME": str(tmp_path / "home")},
    )  # fmt: skip
    try:
        assert process.stdout
        address = next(line for line in process.stdout if line.startswith("page")).split()[1].rstrip("/")
        client = Client(address, "mine")
        expected = model.predict(preprocess_input(IMAGES), verbose=0)
        np.testing.assert_allclose(client.predict(IMAGES)["probabilities"], expected, atol=1e-6)
        assert client.predict_images([PNG])["top_labels"][0][0] == LABELS[expected[0].argmax()]
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            assert process.wait(30) == 0
        finally:
            process.kill()
    (version,) = (tmp_path / "home").rglob("saved_model.pb")
    assert (version.parent / "assets.extra" / "model.keras").is_file()
    from keras_resnext.serving.server.exported import export_to_cache

    written = version.stat().st_mtime_ns
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_HOME", str(tmp_path / "home"))
        assert export_to_cache(file) == version.parent.parent
    assert version.stat().st_mtime_ns == written


def test_a_signal_ends_it_well_as_soon_as_it_says_where_it_is(base):
    for _ in range(2):
        with Server(base) as server:
            assert server.port
            assert server.stop() == 0
