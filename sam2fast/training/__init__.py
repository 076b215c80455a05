"""Training: data, prompts simulated from true masks, losses, optimiser and the loop."""
