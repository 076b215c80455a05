"""What exists only because the original has it. It imports the rest of sam2fast; only the predictors import it."""
