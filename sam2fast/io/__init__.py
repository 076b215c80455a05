"""Reads and writes files: atomic writes, images, YAML, and masks as run lengths, polygons and overlays."""
