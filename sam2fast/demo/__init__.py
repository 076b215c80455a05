"""What ``sam2fast demo`` shows; the web demo of ``sam2fast serve`` is in ``server``."""
