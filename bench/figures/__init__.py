"""Tables and sentences of the documents, made from ``bench/results/*.json``: ``make figures``."""
