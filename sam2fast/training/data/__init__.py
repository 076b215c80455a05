"""Clips with masks: from folders, from the synthetic video factory, and batches of them."""
