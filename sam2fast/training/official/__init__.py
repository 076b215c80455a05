"""Configurations of the original's trainer, understood."""
