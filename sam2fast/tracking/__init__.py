"""Tracks objects through videos: prompts, memories, and the computations of each frame."""
