"""Code that exists only for compatibility with the official package. The core of sam2fast does not use this code."""
