"""Training: data, prompt sampling, losses, optimizer and training loop."""
