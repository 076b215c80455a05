"""Tables, sentences and charts of the documents, made from ``bench/results/*.json``: ``make figures``."""
