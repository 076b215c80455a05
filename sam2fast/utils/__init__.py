"""Utilities for all subpackages: thread guards, seeds, devices, asynchronous copies, comparisons."""
