"""Code for compatibility with the original only. It imports the rest of sam2fast."""
