"""Utilities of all packages: thread guards, seeds, dtypes, copies to the device, comparisons."""
