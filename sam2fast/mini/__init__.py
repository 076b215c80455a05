"""sam2fast mini: SAM 2 tiny without its fourth stage, for photographs at 768 pixels and video at 512."""

from sam2fast.utils.embedded import MINI

MODEL_ID, CONFIG, WEIGHTS = MINI[:3]
