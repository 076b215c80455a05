"""Adapters for the tools where annotators and doctors sit; each needs its extra."""
