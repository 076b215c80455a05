"""Distributed training on one machine or several. See docs/distributed_training.md."""
