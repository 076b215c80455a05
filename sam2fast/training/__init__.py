"""Training: data, prompt sampling, losses, the optimiser and the training loop."""
