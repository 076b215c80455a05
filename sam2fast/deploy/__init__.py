"""Deployment: torch.compile, exported programs, multiple devices, and Ray."""
