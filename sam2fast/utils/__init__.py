"""What every package may import: thread guards, seeds, dtypes, copies to the device, comparisons."""
