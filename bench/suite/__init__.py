"""Whole calls of the predictors beside the official package's, timed in turn; see ``bench/README.md``."""
