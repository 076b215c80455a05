"""Runs exported graphs with numpy, Pillow and onnxruntime, without torch. Also the source of an exported tracker.py."""
