"""Deployment: torch.compile, exported programs, several devices, and Ray."""
