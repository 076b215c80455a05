"""Smaller weights in ONNX graphs: float16, or int8 for some matrix multiplications."""

import logging
from pathlib import Path

# The graphs with most matrix multiplications; the others are small, and masks depend on them directly.
QUANTISED = ("encoder", "memory_attention")


def converted(file: Path, name: str, dtype: str) -> None:
    """Converts the weights of a graph in place; inputs and outputs stay fp32.

    Args:
        file: of the graph, fp32.
        name: of the graph; ``int8`` changes ``encoder`` and ``memory_attention`` alone.
        dtype: ``float32``, ``float16`` or ``int8``.
    """
    if dtype == "float16":
        _to_float16(file)
    elif dtype == "int8" and name in QUANTISED:
        _to_int8(file)


def _to_float16(file: Path) -> None:
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = onnx.load(file)
    onnx.save(convert_float_to_float16(model, keep_io_types=True), file)


def _to_int8(file: Path) -> None:
    """Weights of matrix multiplications in int8 by rows, their inputs quantised when they are read."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(file)
    del model.graph.value_info[:]  # shapes that the exporter wrote, and that quantisation makes wrong
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it recommends preprocessing for static quantisation
    try:
        quantize_dynamic(model, file, op_types_to_quantize=["MatMul", "Gemm"], weight_type=QuantType.QInt8)
    finally:
        root.setLevel(level)
