"""Videos of a data set tracked from their first masks to folders of PNGs, as video object segmentation is evaluated.

:class:`VosJob` is one video, :func:`track_job` does it, :func:`run_vos` does many wherever a
:class:`~sam2fast.deploy.parallel.runners.Runner` does them. See docs/vos.md.

Source: the original's ``tools/vos_inference.py``.
"""

from sam2fast.evaluation.vos.job import VosDone, VosJob, VosSettings, track_job
from sam2fast.evaluation.vos.run import build_for_vos, run_vos

__all__ = ["VosDone", "VosJob", "VosSettings", "build_for_vos", "run_vos", "track_job"]
