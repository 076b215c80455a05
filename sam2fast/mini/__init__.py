"""sam2fast mini: SAM 2 tiny without its fourth stage, for 512x512 pixels; its memory is trained by sam2fast."""

CONFIG = "configs/mini/sam2fast_mini.yaml"
