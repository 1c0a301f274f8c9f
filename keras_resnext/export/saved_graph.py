"""The graph of a SavedModel on disk, as TF Serving takes it."""

import itertools
import math
import tempfile
from pathlib import Path

import keras

from .fusion import CONVOLUTIONS
from .inference_convolution import InferenceConv2D
from .prepared_model import PreparedModel
from .signatures import Signatures, make_signatures
from .version_folder import GRAPH

# Bytes of weights up to which the graph holds them as constants. With ResNeXt-50's 92 MB a request of one image takes
# about a tenth less time than with variables, eight take the same; writing them takes 5 GB of memory.
MAX_FROZEN = 1 << 27
CLASSIFY_METHOD = "tensorflow/serving/classify"


def write_graph(prepared: PreparedModel, path: Path) -> list[str]:
    """Writes a SavedModel to the folder `path`, the labels as its asset.

    Returns:
        The names of its signatures, sorted.

    Raises:
        ValueError: it holds what TF Serving does not run.
        OSError: the disk refuses.
    """
    convolutions = _convolutions(prepared.network)
    small = sum(4 * math.prod(v.shape) for layer in convolutions for v in layer.variables) <= MAX_FROZEN
    for layer in convolutions:
        layer.frozen = small
    signatures = make_signatures(prepared)
    _save(prepared, signatures, path)
    _refuse_xla(prepared.model, path)
    return sorted(signatures)


def _save(prepared: PreparedModel, signatures: Signatures, path: Path) -> None:
    import tensorflow as tf
    from tensorflow.core.protobuf import saved_model_pb2

    module = tf.Module()
    frozen = {id(v) for layer in _convolutions(prepared.network) if layer.frozen for v in layer.variables}
    module.model_variables = [v.value for v in prepared.network.variables if id(v) not in frozen]
    with tempfile.TemporaryDirectory() as folder:
        if prepared.labels:
            file = Path(folder, "labels.txt")
            file.write_text("".join(f"{name}\n" for name in prepared.labels), encoding="utf-8")
            module.labels = tf.saved_model.Asset(str(file))
        tf.saved_model.save(
            module,
            str(path),
            signatures=signatures,
            options=tf.saved_model.SaveOptions(experimental_custom_gradients=False),
        )
    # TensorFlow calls every signature a prediction; TF Serving answers :classify for those of its own name alone.
    saved = saved_model_pb2.SavedModel.FromString((path / GRAPH).read_bytes())
    for graph in saved.meta_graphs:
        if "classify" in graph.signature_def:
            graph.signature_def["classify"].method_name = CLASSIFY_METHOD
    (path / GRAPH).write_bytes(saved.SerializeToString(deterministic=True))


def _convolutions(network: keras.Model) -> list[InferenceConv2D]:
    """Those of the network and of the models inside it."""
    inner = [_convolutions(layer) for layer in network.layers if isinstance(layer, keras.Model)]
    return [*(layer for layer in network.layers if isinstance(layer, InferenceConv2D)), *itertools.chain(*inner)]


def _refuse_xla(model: keras.Model, path: Path) -> None:
    """TF Serving switches XLA off and then fails every request to a function that must be compiled by it."""
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel.FromString((path / GRAPH).read_bytes())
    functions = [
        function.signature.name
        for graph in saved.meta_graphs
        for function in graph.graph_def.library.function
        if function.attr["_XlaMustCompile"].b or any(node.attr["_XlaMustCompile"].b for node in function.node_def)
    ]
    if functions:
        grouped = [
            f"{layer.name} ({type(layer).__name__}, groups={layer.groups})"
            for layer in model.layers
            if getattr(layer, "groups", 1) != 1 and type(layer) not in CONVOLUTIONS
        ]
        raise ValueError(
            f"model={model.name!r} holds {len(functions)} functions that XLA must compile, which TF Serving refuses to "
            f"run; use keras_resnext.GroupedConv2D in place of: {', '.join(grouped) or 'layers with jit_compile=True'}"
        )
