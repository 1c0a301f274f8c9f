"""What stands in a TFLite file: its operations, the names of its tensors, and metadata."""

from collections import Counter
from collections.abc import Sequence

import numpy as np


def count_operations(content: bytes) -> Counter[str]:
    """How often each operation occurs in a TFLite file; custom ones, Flex among them, as "custom NAME"."""
    from tensorflow.lite.python import schema_py_generated as schema

    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
    model = schema.Model.GetRootAs(content)
    codes = [model.OperatorCodes(i) for i in range(model.OperatorCodesLength())]
    # Files from before 127 operations have the code in the other field.
    numbers = [max(code.BuiltinCode(), code.DeprecatedBuiltinCode()) for code in codes]
    kinds = [
        f"custom {code.CustomCode().decode()}" if names[number] == "CUSTOM" else names[number]
        for code, number in zip(codes, numbers, strict=True)
    ]
    graphs = [model.Subgraphs(i) for i in range(model.SubgraphsLength())]
    return Counter(kinds[graph.Operators(i).OpcodeIndex()] for graph in graphs for i in range(graph.OperatorsLength()))


def annotate(content: bytes, tensors: Sequence[str], name: str, metadata: bytes) -> bytes:
    """Names the input and the output, in place of what TensorFlow makes up, and adds metadata under a name."""
    from tensorflow.lite.python import schema_py_generated as schema
    from tensorflow.lite.tools import flatbuffer_utils

    model = flatbuffer_utils.convert_bytearray_to_object(content)
    graph = model.subgraphs[0]
    for index, tensor in zip((*graph.inputs, *graph.outputs), tensors, strict=True):
        graph.tensors[index].name = tensor
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(metadata, np.uint8)
    entry.name, entry.buffer = name, len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or ()), entry]
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))
