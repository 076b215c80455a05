"""Adapters for annotation and imaging tools. Each needs its extra."""
