"""Runs exported graphs with numpy, Pillow and onnxruntime. An exported tracker.py is generated from these modules."""
