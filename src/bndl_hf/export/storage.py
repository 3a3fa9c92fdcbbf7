"""How a graph is stored: without traces of the machine, zeros as zeros, and large weights in half precision if wanted.

Weights stored otherwise are made whole again by operators that onnxruntime runs once, as it loads the file.
"""

from __future__ import annotations

from typing import Any

# Numbers. Smaller tensors are not worth an operator, and statistics and scales, on which precision hangs, are among
# them.
_SMALLEST = 4096
# A number that is not zero is stored with its position, 8 bytes for 4, or 6 for 2: this share saves a fourth at least.
_LARGEST_SHARE = 0.25
_LARGEST_HALF = 65504.0


def remove_traces(proto: Any) -> None:
    """Take out of an `onnx.ModelProto` what tells of the exporting machine; nothing of it is needed to run it."""
    proto.doc_string = ""
    del proto.metadata_props[:]
    for graph in (proto.graph, *proto.functions):
        graph.doc_string = ""
        del graph.metadata_props[:]
        del graph.value_info[:]
        for node in graph.node:
            node.doc_string = ""
            del node.metadata_props[:]
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        value.doc_string = ""
        del value.metadata_props[:]


def store_zeros_sparsely(proto: Any) -> None:
    """Store large weights that are mostly zero as positions and values: pruned loadings, a diagonal projection."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    nodes, kept = [], []
    for weight in proto.graph.initializer:
        if weight.data_type != TensorProto.FLOAT or np.prod(weight.dims) < _SMALLEST:
            kept.append(weight)
            continue
        values = numpy_helper.to_array(weight).ravel()
        positions = values.nonzero()[0]
        if len(positions) >= _LARGEST_SHARE * len(values):
            kept.append(weight)
            continue
        name = weight.name
        parts = {
            f"{name}_size": np.array([len(values)], dtype=np.int64),
            f"{name}_shape": np.array(weight.dims, dtype=np.int64),
            f"{name}_positions": positions.astype(np.int64 if len(values) >= 2**31 else np.int32),
            f"{name}_values": values[positions],
        }
        kept += [numpy_helper.from_array(array, part) for part, array in parts.items()]
        size, shape, where, what = parts
        nodes += [
            helper.make_node("ConstantOfShape", [size], [f"{name}_zeros"]),
            helper.make_node("ScatterElements", [f"{name}_zeros", where, what], [f"{name}_flat"], axis=0),
            helper.make_node("Reshape", [f"{name}_flat", shape], [name]),
        ]
    _replace(proto.graph.initializer, kept)
    _replace(proto.graph.node, [*nodes, *proto.graph.node])


def halve_weights(proto: Any) -> None:
    """Store large float32 weights as float16 with a Cast behind each."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for weight in proto.graph.initializer:
        if weight.data_type != TensorProto.FLOAT or np.prod(weight.dims) < _SMALLEST:
            continue
        values = numpy_helper.to_array(weight)
        if np.abs(values).max() > _LARGEST_HALF:
            continue
        name = weight.name
        weight.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}_float16"))
        casts.append(helper.make_node("Cast", [weight.name], [name], to=TensorProto.FLOAT))
    _replace(proto.graph.node, [*casts, *proto.graph.node])


def _replace(field: Any, values: list[Any]) -> None:
    """Put `values` in place of what a repeated field holds, some of which may be among them."""
    copies = [type(value).FromString(value.SerializeToString()) for value in values]
    del field[:]
    field.extend(copies)
