"""A model elsewhere than in one process: torch.compile, exported programs, several devices, Ray."""
