"""The synthetic video factory: clips with exact masks, made of photographs, cut-outs and drawn shapes."""

from sam2fast.training.data.synthetic.clips import SyntheticClips
from sam2fast.training.data.synthetic.media import MediaError

__all__ = ["MediaError", "SyntheticClips"]
