"""The benchmark runs and says what it cannot measure; and counts, which no other job disturbs, of the work itself."""

import importlib
import json
import sys
import time
from collections import Counter
from dataclasses import replace

import keras
import pytest
from PIL import Image

from keras_resnext import ResNeXt, cli
from keras_resnext.benchmark import ROWS, Work, find_rows, tables
from keras_resnext.benchmark import work as work_module
from keras_resnext.benchmark.rows import GROWTH, Row
from keras_resnext.benchmark.runner import Measurement, measure
from keras_resnext.benchmark.turns import ContenderError, start, take_turns
from keras_resnext.benchmark.work import CONTENDERS, FILES, Contender, Seconds, needs


def test_rows_name_what_there_is():
    fields = set(Work.__dataclass_fields__)
    for row in (ROWS | GROWTH).values():
        assert {*row.ours, *row.peers} <= set(CONTENDERS)
        assert set(row.work) <= fields
        assert row.figure in ("ratio", "memory", "seconds")
    for place in [c.run for c in CONTENDERS.values()] + [prepare for prepare, _ in FILES.values()]:
        module, _, function = place.partition(":")
        assert callable(getattr(importlib.import_module(f"keras_resnext.benchmark.{module}"), function))
    assert all(contender.file in ("", *FILES) for contender in CONTENDERS.values())
    assert needs("openvino") == ("openvino", "tensorflow", "tf2onnx", "onnx", "onnxruntime")
    assert list(find_rows(["growth", "help"])) == [*GROWTH, "help"]


@pytest.mark.slow
def test_the_command_measures_and_writes(tmp_path, capsys, monkeypatch):
    quick = ("train_torch", "train_torch_channels_last", "images_torch")  # torch.compile alone takes a minute
    monkeypatch.setitem(ROWS, "training", replace(ROWS["training"], peers=quick))
    monkeypatch.setitem(work_module.CONTENDERS, "images_torch", Contender("other", "starting:build", ("no_library",)))
    arguments = ["help", "training", "gpu-training", "--image-size", "32", "--rounds", "1", "--batch-size", "16"]
    with pytest.raises(SystemExit) as stop:
        cli.main(["benchmark", *arguments, "--output", str(tmp_path / "figures")])
    shown = capsys.readouterr().out
    assert not stop.value.code, shown
    assert "Measured limits: " in shown
    found = json.loads((tmp_path / "figures" / "benchmark.json").read_text())
    assert found["machine"]["peak_flops"]["float32"] > 1e9
    assert found["machine"]["peak_bytes_per_second"] > 1e8
    rows = {row["row"]: row for row in found["rows"]}
    assert 0.05 < rows["help"]["figure"] < 20
    seconds = {name: turns[0] for name, turns in rows["training"]["seconds"].items()}
    peer = min(quick[:2], key=seconds.__getitem__)
    assert rows["training"]["peer"] == peer
    assert rows["training"]["figure"] == pytest.approx(seconds["train"] / seconds[peer])
    assert rows["training"]["absent"] == {"images_torch": "not installed: no_library"}
    assert "Without other: not installed: no_library" in shown
    assert 0 < rows["training"]["limit"] < 1
    assert rows["training"]["memory"]["train"] > 1e7
    if rows["gpu-training"]["figure"] is None:
        assert rows["gpu-training"]["missing"] == "no GPU here"
    markdown = (tmp_path / "figures" / "benchmark.md").read_text()
    assert f"| training step, batch 8 | keras_resnext on TensorFlow | {CONTENDERS[peer].label} |" in markdown
    assert Image.open(tmp_path / "figures" / "benchmark.png").size[0] > 300


def test_a_missing_peer_is_named(monkeypatch):
    monkeypatch.setitem(work_module.CONTENDERS, "foreign", Contender("foreign", "starting:build", ("no_such_library",)))
    missing = measure("build", Row("a", ("build",), ("foreign",)), Work(), 1)
    assert missing.figure is None
    assert missing.missing == "not installed: no_such_library"
    there = measure("help", Row("b", ("help",), figure="seconds"), Work(), 1)
    assert [there.figure] == there.seconds["help"]


def test_what_a_contender_returns_is_no_time(monkeypatch):
    """A training step returns its loss, which is a float too."""
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr(sys, "argv", sys.argv[:])
    from keras_resnext.benchmark.child import TURN, time_turn

    assert time_turn(lambda: 1e9) < 1e9
    assert time_turn(lambda: Seconds(1e9)) == 1e9
    runs = iter([0.2, 0.05] + [0.001] * 999)
    assert time_turn(lambda: time.sleep(next(runs))) < TURN
    assert next(runs, None) == 0.001


def test_processes_that_end_are_told_of():
    with pytest.raises(ContenderError, match="too little memory for this"):
        start([sys.executable, "-c", "raise SystemExit('too little memory for this')"])
    dying = "print('ready', flush=True); input(); print(1.5, 7, flush=True); input(); raise SystemExit(9)"
    with pytest.raises(ContenderError, match="one ended with 9"):
        take_turns({"one": start([sys.executable, "-c", dying])}, 2, rest=0)
    steady = "print('ready', flush=True)\nwhile True: input(); print(1.5, 7, flush=True)"
    assert take_turns({"one": start([sys.executable, "-c", steady])}, 2, rest=0) == ({"one": [1.5, 1.5]}, {"one": 7})


def test_a_missed_bar_is_called_missed():
    late = Measurement("help", {}, {"help": [0.4, 0.5, 0.6, 0.7]}, {"help": 1}, ours="help", figure=0.55)
    cells = dict(zip(tables.COLUMNS, tables.table([late])[0], strict=True))
    assert (cells["figure"], cells["bar"]) == ("0.550 s, missed", "≤ 0.300 s")
    assert cells["ours ms"] == "550.0 (425.0–675.0)"
    assert "missed" not in tables.table([replace(late, figure=0.2)])[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trainig"], "rows='trainig' must be among training, "),
        (["help", "--precision", "int4"], "--precision 'int4' must be one of float32, tf32, bfloat16"),
        (["help", "--lowering", "wide"], "--lowering 'wide' must be one of auto, grouped, merged"),
        (["help", "--architecture", "resnext51"], "resnext51"),
    ],
)
def test_bad_arguments_are_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["benchmark", *arguments])
    assert stop.value.code == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="counts TensorFlow's operations")
def test_the_work_of_a_training_step():
    """Joined groups are 16 or 32 channels wide, 1x1 convolutions are products, nothing is transposed or left to XLA."""
    import tensorflow as tf

    if tf.config.get_visible_devices("GPU"):
        pytest.skip("the lowering on GPUs is another")
    model = ResNeXt(blocks=(1, 1, 1, 1), classes=10, input_shape=(64, 64, 3))

    @tf.function
    def step(images):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(images, training=True))
        return tape.gradient(loss, model.trainable_variables)

    graph = step.get_concrete_function(tf.TensorSpec((2, 64, 64, 3))).graph.as_graph_def()
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    counts = Counter(node.op for node in nodes)
    grouped = sum(channels // width for channels, width in ((128, 16), (256, 16), (512, 32), (1024, 32)))
    assert counts["Conv2D"] == grouped + 1
    assert counts["Conv2DBackpropFilter"] == grouped + 1
    assert counts["Conv2DBackpropInput"] == grouped + 1  # that to the images is never run
    products = 3 * 4 + 1  # two and a shortcut a block, and the head
    assert counts["MatMul"] == 3 * products
    assert counts["FusedBatchNormV3"] == counts["FusedBatchNormGradV3"] == 4 * 4 + 1
    assert counts["Transpose"] == 0
    assert not any("_XlaMustCompile" in node.attr for node in nodes)
