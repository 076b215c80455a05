"""Smaller weights in ONNX graphs: float16, or int8 for some matrix multiplications."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
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
    """Stores weights of matrix multiplications in int8 by rows; inputs are quantised when they are read."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(file)
    del model.graph.value_info[:]  # shapes by the exporter, wrong after quantisation
    with quiet("root"):  # it recommends preprocessing for static quantisation
        quantize_dynamic(model, file, op_types_to_quantize=["MatMul", "Gemm"], weight_type=QuantType.QInt8)


@contextmanager
def quiet(logger: str) -> Iterator[None]:
    """Context manager without Python's warnings, and with this logger's errors only."""
    log = logging.getLogger(logger)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
