"""sam2fast nano: a small model whose weights are part of the package."""

from sam2fast.utils.embedded import NANO

MODEL_ID, CONFIG, WEIGHTS = NANO[:3]
