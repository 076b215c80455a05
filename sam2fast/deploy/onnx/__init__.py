"""Models as ONNX graphs: :func:`~sam2fast.deploy.onnx.export.write_onnx` makes them, ``runtime`` runs them."""
