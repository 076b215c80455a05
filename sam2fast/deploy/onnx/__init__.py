"""Exports models to ONNX graphs with torch. Running the graphs needs only numpy, Pillow and onnxruntime."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sam2fast.deploy.onnx.export import write_onnx
    from sam2fast.deploy.onnx.runtime.graphs import OnnxModel, load_model
    from sam2fast.deploy.onnx.runtime.images import OnnxImagePredictor
    from sam2fast.deploy.onnx.runtime.manifest import OnnxManifest, OnnxModelError
    from sam2fast.deploy.onnx.runtime.videos import OnnxVideoPredictor

__all__ = [
    "OnnxImagePredictor",
    "OnnxManifest",
    "OnnxModel",
    "OnnxModelError",
    "OnnxVideoPredictor",
    "load_model",
    "write_onnx",
]

_HOMES = {
    "OnnxImagePredictor": "runtime.images",
    "OnnxManifest": "runtime.manifest",
    "OnnxModel": "runtime.graphs",
    "OnnxModelError": "runtime.manifest",
    "OnnxVideoPredictor": "runtime.videos",
    "load_model": "runtime.graphs",
    "write_onnx": "export",
}


if not TYPE_CHECKING:  # type checkers still report unknown names

    def __getattr__(name: str) -> Any:
        """Imports a public name at its first use. Exporting needs torch, and running a graph needs onnxruntime."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import importlib

        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
