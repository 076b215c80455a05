"""What exists only because the original has it: ``utils.misc``, building blocks, and methods to override."""
