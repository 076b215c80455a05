"""Many videos, wherever jobs are done."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sam2fast.deploy.parallel.runners import Runner
from sam2fast.evaluation.vos.folders import remove_leftovers
from sam2fast.evaluation.vos.job import VosDone, VosJob, track_job

if TYPE_CHECKING:
    from sam2fast.sam2_video_predictor import SAM2VideoPredictor


def build_for_vos(
    config: str | Path,
    checkpoint: str | Path | None,
    *,
    per_object: bool = False,
    postprocessing: bool = False,
    vos_optimized: bool = False,
    dtype: str | None = None,
    device: str = "auto",
) -> "SAM2VideoPredictor":
    """A predictor for :func:`track_job`; with ``functools.partial``, the ``build`` of :func:`run_vos`.

    Args:
        per_object: see :class:`VosSettings`; masks may overlap then, and otherwise may not.
        postprocessing: fill holes, fall back to the best of three masks, and so on, as in the interactive predictor.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        config, checkpoint, vos_optimized, device: as for
            :func:`~sam2fast.build_sam.build_sam2_video_predictor`, also in what is raised.
    """
    import torch

    from sam2fast.build_sam import build_sam2_video_predictor

    return build_sam2_video_predictor(
        config,
        checkpoint,
        device,
        hydra_overrides_extra=[f"++model.non_overlap_masks={'false' if per_object else 'true'}"],
        apply_postprocessing=postprocessing,
        vos_optimized=vos_optimized,
        dtype=None if dtype is None else getattr(torch, dtype),
    )


def run_vos(
    jobs: Iterable[VosJob], runner: Runner, build: Callable[..., Any], *, is_spread: bool = False
) -> Iterator[tuple[VosJob, VosDone]]:
    """Does jobs, the longest videos first, and yields them as they are done.

    A video that cannot be done is a result with a ``problem``; the others go on. There must not be another run over the
    same videos and the same ``out`` meanwhile, but for tasks of a cluster that outlive theirs.

    Args:
        jobs: of videos with different names, or different ``out``.
        runner: where they are done, such as ``in_this_process("cuda")``.
        build: picklable, gives the predictor, called with ``device=``.
        is_spread: processes elsewhere may be writing to ``out``, of this run or of one before: the tasks of a cluster.
            What they may be at is not removed; otherwise all that earlier runs have left half-written is.

    Raises:
        Exception: of ``build``, and if no worker is left; see
            :class:`~sam2fast.deploy.parallel.runners.Runner`.
    """
    ordered = sorted(jobs, key=lambda job: -job.frames)
    names: dict[Path, set[str]] = {}
    for job in ordered:
        names.setdefault(job.out, set()).add(job.name)
    _clean(names, is_spread)
    results = runner(track_job, ordered, build)
    try:
        for result in results:
            yield result.job, result.value if result.done else VosDone(result.job.name, problem=result.error)
    finally:
        if hasattr(results, "close"):
            results.close()  # processes end with it, and only then nobody fills folders any more
        _clean(names, is_spread)


def _clean(names: dict[Path, set[str]], is_spread: bool) -> None:
    for out, of_videos in names.items():
        remove_leftovers(out, of_videos, is_spread)
