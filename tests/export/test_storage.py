"""What is stored otherwise is the same weight once onnxruntime has loaded it."""

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, checker, helper, numpy_helper

from bndl_hf.export.storage import halve_weights, remove_traces, store_zeros_sparsely


def graph_of(weight):
    """y = x @ weight."""
    shapes = {"x": [1, weight.shape[0]], "y": [1, weight.shape[1]]}
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items())
    node = helper.make_node("MatMul", ["x", "weight"], ["y"], doc_string="/home/jo/model.py")
    graph = helper.make_graph([node], "graph", [x], [y], [numpy_helper.from_array(weight, "weight")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def product(proto, row):
    checker.check_model(proto)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["y"], {"x": row})[0]


@pytest.fixture
def row():
    return np.random.default_rng(0).normal(size=(1, 80)).astype(np.float32)


def test_a_diagonal_is_stored_as_a_diagonal(row):
    weight = np.diag(np.arange(1, 81, dtype=np.float32))
    proto = graph_of(weight)
    before = proto.ByteSize()
    store_zeros_sparsely(proto)
    assert before > 4 * 6400
    assert proto.ByteSize() < 1500  # 80 positions and values of 4 bytes, and three operators
    np.testing.assert_array_equal(product(proto, row), row * np.arange(1, 81, dtype=np.float32))


@pytest.mark.parametrize("weight", [np.ones((80, 80), np.float32), np.eye(60, dtype=np.float32)], ids=["full", "small"])
def test_full_and_small_weights_stay_as_they_are(weight):
    proto = graph_of(weight)
    before = proto.SerializeToString()
    store_zeros_sparsely(proto)
    assert proto.SerializeToString() == before


def test_halved_weights_take_half_the_bytes_and_are_those_of_float16(row):
    weight = np.random.default_rng(1).normal(size=(80, 80)).astype(np.float32)
    proto = graph_of(weight)
    before = proto.ByteSize()
    halve_weights(proto)
    assert proto.ByteSize() < 0.51 * before
    np.testing.assert_allclose(product(proto, row), row @ weight.astype(np.float16).astype(np.float32), rtol=1e-5)


def test_weights_that_float16_cannot_hold_stay_float32(row):
    weight = np.full((80, 80), 1e5, dtype=np.float32)
    proto = graph_of(weight)
    halve_weights(proto)
    np.testing.assert_allclose(product(proto, row), row @ weight, rtol=1e-4)


def test_traces_of_the_machine_are_removed():
    proto = graph_of(np.eye(2, dtype=np.float32))
    proto.metadata_props.add(key="source", value="/home/jo")
    proto.graph.value_info.append(helper.make_tensor_value_info("/home/jo/x", TensorProto.FLOAT, [1]))
    remove_traces(proto)
    assert b"/home" not in proto.SerializeToString()
