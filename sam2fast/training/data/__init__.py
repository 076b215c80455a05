"""Training data: clips with masks from data sets or synthetic scenes, and batches of clips."""
