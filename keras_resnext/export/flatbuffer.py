"""What stands in a TFLite file: its operations, and the names of its tensors."""

from collections import Counter


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


def rename_tensors(content: bytes, *names: str) -> bytes:
    """Gives input and output tensors these names, in place of the longer ones that TensorFlow makes up."""
    from tensorflow.lite.python import schema_py_generated as schema

    graph = schema.Model.GetRootAs(content).Subgraphs(0)
    for index, name in zip((graph.Inputs(0), graph.Outputs(0)), names, strict=True):
        old, new = graph.Tensors(index).Name(), name.encode()
        # A string is its length in four bytes, the bytes and a zero. A shorter one fits where the old one stood.
        before = len(old).to_bytes(4, "little") + old + b"\0"
        if len(new) <= len(old) and content.count(before) == 1:
            content = content.replace(before, len(new).to_bytes(4, "little") + new.ljust(len(old) + 1, b"\0"))
    return content
