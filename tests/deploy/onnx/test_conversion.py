"""Weights of converted graphs."""

import pytest

pytest.importorskip("onnxruntime", reason="needs the extra onnx")

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

from sam2fast.checkpoints.int8 import from_int8, to_int8
from sam2fast.deploy.onnx.conversion import converted


@pytest.fixture
def weight():
    """Weight ``(in, out)`` of a linear layer, with output channels of different size. The last channel is 0."""
    return (
        np.random.default_rng(0).standard_normal((128, 64), np.float32)
        * np.logspace(-3, 0, 64, dtype=np.float32)
        * (np.arange(64, dtype=np.float32) < 63)
    )


def run_converted(weight, folder):
    """Converts a graph with one matrix multiplication to int8. Returns the weight as the graph reads it."""
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    x, y = (helper.make_tensor_value_info(key, TensorProto.FLOAT, (128, n)) for key, n in (("x", 128), ("y", 64)))
    graph = helper.make_graph([node], "product", [x], [y], [numpy_helper.from_array(weight, "w")])
    file = folder / "product.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), file)
    converted(file, "int8")
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.eye(128, dtype=np.float32)})[0], file.stat().st_size


def test_each_channel_has_a_scale_of_eight_bits(weight, tmp_path):
    actual, size = run_converted(weight, tmp_path)
    assert size < weight.nbytes / 2
    assert (np.abs(actual - weight).max(0) <= np.abs(weight).max(0) / 127 * 0.501).all() and not actual[:, -1].any()


def test_weights_of_int8_checkpoints_are_unchanged(weight, tmp_path):
    """For example, the model mini."""
    stored = from_int8(to_int8({"layer.weight": torch.from_numpy(weight.T.copy())}))["layer.weight"].numpy().T
    assert not np.array_equal(stored, weight)
    actual, _ = run_converted(stored, tmp_path)
    np.testing.assert_allclose(actual, stored, rtol=3e-7)
