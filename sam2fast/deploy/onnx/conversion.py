"""Converts weights of ONNX graphs to float16, or to int8 for some matrix multiplications."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Graphs with int8 weights. The decoder and memory encoder stay fp32, because they are small and determine the masks.
QUANTISED = ("encoder", "memory_attention")


def converted(file: Path, name: str, dtype: str) -> None:
    """Converts the fp32 weights of the graph ``name`` in its file. The graph's inputs and outputs stay fp32."""
    import onnx

    if dtype == "float16":
        from onnxruntime.transformers.float16 import convert_float_to_float16

        onnx.save(convert_float_to_float16(onnx.load(file), keep_io_types=True), file)
    elif dtype == "int8" and name in QUANTISED:  # dynamic quantization: activations are quantized at run time
        from onnxruntime.quantization import QuantType, quantize_dynamic

        model = onnx.load(file)
        del model.graph.value_info[:]  # the exporter's shapes are wrong after quantization
        # Weights of 7 bits: products of 8 bits overflow 16-bit sums on x86 processors without VNNI.
        options = {"weight_type": QuantType.QInt8, "reduce_range": True}
        with quiet("root"):  # hides advice on static quantization
            quantize_dynamic(model, file, op_types_to_quantize=["MatMul", "Gemm"], **options)


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
