"""Content of ``sam2fast demo``; the web demo of ``sam2fast serve`` is in ``server``."""
