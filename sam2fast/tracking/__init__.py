"""Objects through a video: their state, their memories, and what the model computes from frame to frame."""
