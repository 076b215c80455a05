"""Training in several processes, on one machine or many. See docs/distributed_training.md."""
