"""Semi-supervised video object segmentation: tracks videos of a data set from their first masks to PNG folders.

:func:`track_job` tracks one video, a :class:`VosJob`. :func:`run_vos` tracks many videos with a
:class:`~sam2fast.deploy.parallel.runners.Runner`. See docs/evaluation.md.

Source: the official ``tools/vos_inference.py``.
"""

from sam2fast.evaluation.vos.inference import VosDone, VosJob, VosSettings, build_for_vos, run_vos, track_job

__all__ = ["VosDone", "VosJob", "VosSettings", "build_for_vos", "run_vos", "track_job"]
