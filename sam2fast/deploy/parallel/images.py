"""Segments images on several devices, from prompts to run lengths."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from sam2fast.deploy.parallel.device_list import Devices
from sam2fast.deploy.parallel.pool import JobResult, run_jobs

if TYPE_CHECKING:
    from sam2fast.io.rle import RLE
    from sam2fast.modeling.sam2_base import SAM2Base
    from sam2fast.sam2_image_predictor import SAM2ImagePredictor


@dataclass(frozen=True)
class ImageJob:
    """One image with one prompt. Prompts have the types of arguments of ``SAM2ImagePredictor.predict``.

    Attributes:
        image: input of ``set_image``. A path is sent to the process faster than pixels.
    """

    image: Any
    points: Any = None  # (N, 2), in pixels of the image
    labels: Any = None  # (N)
    box: Any = None  # (4)
    mask_input: Any = None  # (1, 4h, 4h) logits
    multimask_output: bool = True


class SegmentedImage(NamedTuple):
    """Masks of one image for one prompt."""

    size: tuple[int, int]  # (H, W)
    rles: "list[RLE]"  # compressed, in COCO's format
    scores: list[float]  # predicted IoU of each mask


def segment_images(
    jobs: Iterable[ImageJob],
    devices: Devices,
    build: Callable[..., "SAM2Base"],
    *,
    ordered: bool = False,
    threads: int | None = None,
) -> Iterator[JobResult]:
    """Segments images on several devices. The ``value`` of a result is a :class:`SegmentedImage`.

    Args:
        build: function that returns a model, such as ``functools.partial(build_sam2, config, checkpoint)``.
        jobs, devices, ordered, threads: see :func:`~sam2fast.deploy.parallel.run_jobs`.

    Raises the errors of :func:`~sam2fast.deploy.parallel.run_jobs`.
    """
    return run_jobs(segment_image, jobs, devices, partial(_image_predictor, build), ordered=ordered, threads=threads)


def segment_image(predictor: "SAM2ImagePredictor", job: ImageJob) -> SegmentedImage:
    """Segments one image in this process. Raises the errors of ``set_image`` and ``predict``."""
    predictor.set_image(job.image)
    rles, scores, _ = predictor.predict(
        job.points,
        job.labels,
        job.box,
        job.mask_input,
        multimask_output=job.multimask_output,
        output_mode="coco_rle",
    )
    assert predictor._orig_hw is not None
    return SegmentedImage(predictor._orig_hw[-1], list(rles), [float(x) for x in scores])


def _image_predictor(build: Callable[..., Any], device: str) -> "SAM2ImagePredictor":
    from sam2fast.sam2_image_predictor import SAM2ImagePredictor

    return SAM2ImagePredictor(build(device=device))
