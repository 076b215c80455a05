"""Adapters for annotation and imaging tools. Each adapter needs an extra of the package."""
