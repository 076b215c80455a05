"""sam2fast mini: derived from SAM 2 tiny by removing its fourth stage, for 512x512 pixels; weights in the package."""

from sam2fast.utils.embedded import MINI

MODEL_ID, CONFIG, WEIGHTS = MINI
