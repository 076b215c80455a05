"""Measures how well predicted masks agree with the ground truth."""
