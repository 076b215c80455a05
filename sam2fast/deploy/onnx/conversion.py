"""Stores weights of ONNX graphs as float16, or weights of matrix multiplications as int8."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np


def converted(file: Path, dtype: str) -> None:
    """Converts the fp32 weights of a graph in its file. The graph's inputs and outputs stay fp32."""
    import onnx

    if dtype == "float16":
        from onnxruntime.transformers.float16 import convert_float_to_float16

        onnx.save(convert_float_to_float16(onnx.load(file), keep_io_types=True), file)
    elif dtype == "int8":
        model = onnx.load(file)
        _store_int8(model.graph)
        onnx.save(model, file)


def _store_int8(graph: Any) -> None:
    """Stores weights of matrix multiplications as int8, with an fp32 scale ``max|w| / 127`` for each output channel.

    Activations stay fp32: with int8 activations, masks of the model mini differ too much. onnxruntime computes the
    fp32 weights when it loads the graph. The nodes are Cast and Mul, because onnxruntime replaces DequantizeLinear and
    MatMul by a slower operator with int8 activations.
    """
    from onnx import TensorProto, helper, numpy_helper

    initializers = {x.name: x for x in graph.initializer}
    names = {node.input[1] for node in graph.node if node.op_type == "MatMul"} & initializers.keys()
    for name in sorted(names):
        weight = numpy_helper.to_array(initializers[name])
        if weight.ndim != 2:
            continue
        scale = np.maximum(np.abs(weight).max(0) / np.float32(127), np.finfo(np.float32).tiny)
        codes = np.round(weight / scale).astype(np.int8)
        graph.initializer.remove(initializers[name])
        stored = {f"{name}_int8": codes, f"{name}_scale": scale}
        graph.initializer.extend(numpy_helper.from_array(array, key) for key, array in stored.items())
        graph.node.insert(0, helper.make_node("Mul", [f"{name}_fp32", f"{name}_scale"], [name]))
        graph.node.insert(0, helper.make_node("Cast", [f"{name}_int8"], [f"{name}_fp32"], to=TensorProto.FLOAT))


@contextmanager
def quiet(logger: str) -> Iterator[None]:
    """Context manager that hides Python warnings, and messages of the logger below level ERROR."""
    log = logging.getLogger(logger)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
