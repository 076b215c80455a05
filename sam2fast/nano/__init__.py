"""nano: a small model of our own whose weights are part of the package."""

from pathlib import Path

MODEL_ID = "sam2fast/nano"  # what `from_pretrained` calls it
CONFIG = "configs/nano/sam2fast_nano.yaml"
WEIGHTS = Path(__file__).with_name("weights.safetensors")
