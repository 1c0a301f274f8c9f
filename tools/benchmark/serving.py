"""Times what exports give beside ONNX Runtime on torchvision's own export: ResNeXt-50 32x4d, 224x224, 2 threads.

    python tools/benchmark/serving.py [--batches 1 8] [--rounds 15]

Needs torch, torchvision, onnxruntime and ai-edge-litert. Each runtime is a process of its own, and they take turns, so
that what else the machine does falls on all of them. The SavedModel runs as in TF Serving: through TensorFlow's C API,
with XLA switched off. Prints medians and their ratio to ONNX Runtime, and the same of minima, which other jobs disturb
less.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from turns import start, take_turns

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
NAME, SIZE, THREADS = "resnext50_32x4d", 224, 2
REST = 0.2  # seconds between turns: ONNX Runtime's threads keep spinning for a while


def runner(kind: str, path: str, batch: int) -> Callable[[], object]:
    """What runs one batch of the file at `path`."""
    images = np.random.default_rng(0).uniform(0, 255, (batch, SIZE, SIZE, 3)).astype("float32")
    if kind == "onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        given = session.get_inputs()[0]
        inputs = images if given.shape[-1] == 3 else np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        return lambda: session.run(None, {given.name: inputs})
    if kind == "tflite":
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(path, num_threads=THREADS)
        index = interpreter.get_input_details()[0]["index"]
        interpreter.resize_tensor_input(index, images.shape)
        interpreter.allocate_tensors()

        def run() -> object:
            interpreter.set_tensor(index, images)
            interpreter.invoke()
            return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])

        return run
    from tests.serving_session import Session

    folder, inputs_name, output_name = path.split("|")
    session = Session(folder, xla=False)
    return lambda: session.run({inputs_name: images}, [output_name])


def child(kind: str, path: str, batch: str) -> None:
    run = runner(kind, path, int(batch))
    for _ in range(3):
        run()
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        run()
        print(time.perf_counter() - start, flush=True)


def export(folder: Path) -> dict[str, tuple[str, str]]:
    """Everything that is compared: label -> (kind, path)."""
    import torch
    from tensorflow.core.protobuf import saved_model_pb2

    import keras_resnext
    from keras_resnext.export import export_onnx, export_tflite, export_version
    from tests import references

    module = references.torchvision_model(NAME)
    shown = {"input_names": ["x"], "output_names": ["y"], "dynamic_axes": {"x": {0: "n"}, "y": {0: "n"}}}
    torch.onnx.export(module, (torch.zeros(1, 3, SIZE, SIZE),), folder / "torchvision.onnx", dynamo=False, **shown)
    model = keras_resnext.from_pytorch(dict(module.state_dict()), input_shape=(SIZE, SIZE, 3))
    noise = np.random.default_rng(0).uniform(0, 255, (8, SIZE, SIZE, 3)).astype("float32")
    version = export_version(model, folder / "base", warmup=False).path
    export_onnx(model, folder / "ours.onnx")
    export_tflite(model, folder / "float.tflite")
    export_tflite(model, folder / "int8.tflite", quantization="int8", calibration=noise)
    saved = saved_model_pb2.SavedModel.FromString((version / "saved_model.pb").read_bytes())
    signature = saved.meta_graphs[0].signature_def["serving_default"]
    names = (signature.inputs["images"].name, signature.outputs["probabilities"].name)
    return {
        "torchvision's ONNX in ONNX Runtime": ("onnx", str(folder / "torchvision.onnx")),
        "our SavedModel, C API": ("saved_model", "|".join((str(version), *names))),
        "our ONNX in ONNX Runtime": ("onnx", str(folder / "ours.onnx")),
        "our TFLite, float32": ("tflite", str(folder / "float.tflite")),
        "our TFLite, int8": ("tflite", str(folder / "int8.tflite")),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with tempfile.TemporaryDirectory() as folder:
        runners = export(Path(folder))
        for batch in options.batches:
            processes = {
                label: start([sys.executable, __file__, "--child", kind, path, str(batch)])
                for label, (kind, path) in runners.items()
            }
            times = take_turns(processes, options.rounds, REST)
            print(f"\nbatch {batch}: milliseconds, median (minimum); ratio to the first, of medians (of minima)")
            first = next(iter(times.values()))
            for label, taken in times.items():
                median, least = statistics.median(taken), min(taken)
                ratios = f"{median / statistics.median(first):.2f} ({least / min(first):.2f})"
                print(f"{label:<36}{median * 1e3:8.1f} ({least * 1e3:.1f})   {ratios}", flush=True)


if __name__ == "__main__":
    child(*sys.argv[2:]) if sys.argv[1:2] == ["--child"] else main()
