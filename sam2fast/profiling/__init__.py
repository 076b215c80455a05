"""Profiles an image or frames of a video by parts of the model, with torch.profiler and FlopCounterMode."""

from sam2fast.profiling.limits import Limits, measure_limits
from sam2fast.profiling.run import profile_image, profile_video
from sam2fast.profiling.tree import Part, Profile

__all__ = ["Limits", "Part", "Profile", "measure_limits", "profile_image", "profile_video"]
