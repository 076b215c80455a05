"""Training data: clips with masks from data sets or synthetic scenes, collated into batches."""
