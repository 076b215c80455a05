"""Code that exists only for compatibility with the official package and with earlier versions of sam2fast.

The core of sam2fast does not use this code.
"""
