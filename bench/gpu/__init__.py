"""One visit to a CUDA machine: steps in order of value, each in a process of its own."""
