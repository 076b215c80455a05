"""Synthetic clips with exact masks, composed of photographs, cut-outs and procedural shapes."""

from sam2fast.training.data.synthetic.clips import SyntheticClips
from sam2fast.training.data.synthetic.media import MediaError

__all__ = ["MediaError", "SyntheticClips"]
