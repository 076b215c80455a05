"""What runs exported graphs: numpy, Pillow and onnxruntime, without torch; the source of an exported tracker.py."""
