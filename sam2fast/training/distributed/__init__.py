"""Distributed training on one machine or several machines. See docs/distributed_training.md."""
