"""Measures the agreement of predicted masks with ground truth."""
