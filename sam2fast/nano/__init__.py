"""sam2fast nano: a small model whose weights are part of the package."""

from pathlib import Path

MODEL_ID = "sam2fast/nano"  # in `from_pretrained`
CONFIG = "configs/nano/sam2fast_nano.yaml"
WEIGHTS = Path(__file__).with_name("weights.safetensors")
