"""Writes tracked masks of a volume's slices as NIfTI labels or DICOM segmentations. Not a medical device."""

import gzip
import re
from collections.abc import Iterable, Sequence
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sam2fast.io.atomic import atomic_write
from sam2fast.io.label_maps import MOST_LABELS, label_dtype
from sam2fast.results.frame_masks import to_numpy
from sam2fast.results.object_numbers import object_numbers
from sam2fast.utils.errors import requires


class SourceVolume(Protocol):
    """The volume that was tracked: a :class:`~sam2fast.video_io.volumes.Volume`."""

    values: NDArray[Any]
    affine: NDArray[np.float64]
    header: Any
    datasets: Sequence[Any]
    frame_order: Sequence[int]

    def as_frames(self, voxels: NDArray[Any]) -> NDArray[Any]:
        """Returns a view ``(N, H, W)`` of an array of the voxels ``(I, J, K)``."""


def to_label_volume(volume: SourceVolume, frames: Iterable[Any]) -> tuple[NDArray[np.uint16], list[Any]]:
    """Returns the object of each voxel, and the objects' ids.

    If all ids are integers from 1 to 65535, they are the labels. Otherwise, labels count the ids from 1.

    Args:
        volume: Tracked volume.
        frames: Frames in any order. Each is an argument of :func:`~sam2fast.results.to_numpy`. Where masks of a
            frame overlap, later objects cover earlier objects.

    Returns:
        Labels ``(I, J, K)`` in the order of the source's voxels (0 is background), and the ids.

    Raises:
        ValueError: If the volume lacks a frame, or masks have another size.
    """
    positions, ids = _to_positions(volume, frames)
    numbers = object_numbers(ids, MOST_LABELS)
    return np.array([0, *numbers.values()], np.uint16)[positions], ids


def _to_positions(volume: SourceVolume, frames: Iterable[Any]) -> tuple[NDArray[np.uint16], list[Any]]:
    """Returns the position of each voxel's object in the list of ids, from 1, or 0, and the ids."""
    labels = np.zeros(volume.values.shape, np.uint16)
    slices, ids = volume.as_frames(labels), dict[Any, int]()
    for item in frames:
        arrays = to_numpy(item)
        if not 0 <= arrays.frame < len(slices):
            raise ValueError(f"frame {arrays.frame} is not in the volume, which has {len(slices)} slices on this axis")
        for obj_id, mask in zip(arrays.ids, arrays.masks, strict=True):
            label = ids.setdefault(obj_id, len(ids) + 1)
            if mask.shape != slices.shape[1:]:
                raise ValueError(f"a mask has the shape {mask.shape}, but the volume's slices {slices.shape[1:]}")
            slices[arrays.frame][mask] = label
    return labels, list(ids)


def write_nifti(file: str | Path, volume: SourceVolume, frames: Iterable[Any]) -> list[Any]:
    """Writes labels with the source's affine and orientation, atomically. Not a medical device.

    Args:
        file: Path ending with ``.nii``, or with ``.nii.gz`` for compression.
        volume, frames: Volume and its masks, see :func:`to_label_volume`.

    Returns:
        The ids, see :func:`to_label_volume`.

    Raises:
        ValueError: If :func:`to_label_volume` raises ValueError.
        ImportError: If nibabel is not installed.
        OSError: If the file cannot be written.
    """
    nibabel = import_module("nibabel")
    labels, ids = to_label_volume(volume, frames)
    labels = labels.astype(label_dtype([int(labels.max())]), copy=False)
    header = None if volume.header is None else volume.header.copy()
    image_type = nibabel.Nifti2Image if isinstance(header, nibabel.Nifti2Header) else nibabel.Nifti1Image
    if header is not None:
        header.set_data_dtype(labels.dtype)
        header["cal_min"] = header["cal_max"] = 0  # removes the source's display range
        header.extensions.clear()
    content: bytes = image_type(labels, volume.affine, header).to_bytes()
    with atomic_write(Path(file)) as opened:
        opened.write(gzip.compress(content, mtime=0) if str(file).lower().endswith(".gz") else content)
    return ids


def write_dicom_seg(file: str | Path, volume: SourceVolume, frames: Iterable[Any]) -> list[Any]:
    """Writes a DICOM segmentation that refers to the source's images, atomically. Not a medical device.

    Each object is a binary segment of the type "tissue", with the object id as label. Texts are in UTF-8. A label has
    at most 64 characters, without backslashes and line breaks. The segment's description has ids that do not fit.

    Args:
        file: Path of the file, usually ``.dcm``.
        volume, frames: DICOM volume and its masks, see :func:`to_label_volume`.

    Returns:
        The ids of the segments 1, 2, ...

    Raises:
        ValueError: If the volume is not DICOM, its files lack attributes that a segmentation needs, or there is no
            object. See also :func:`to_label_volume`.
        ImportError: If highdicom is not installed.
        OSError: If the file cannot be written.
    """
    if not volume.datasets:
        raise ValueError("a DICOM segmentation refers to DICOM images; write NIfTI for volumes of NIfTI files")
    with requires("DICOM segmentations need highdicom: pip install 'sam2fast[medical]'"):
        highdicom = import_module("highdicom")
    codes, version = import_module("pydicom.sr.codedict").codes, import_module("sam2fast").__version__
    labels, ids = _to_positions(volume, frames)  # DICOM numbers segments without gaps
    if not ids:
        raise ValueError("there are no objects; a DICOM segmentation has one or more")
    planes = np.empty(labels.shape[::-1], np.uint16)
    planes[np.asarray(volume.frame_order) if len(volume.datasets) == 1 else slice(None)] = labels.transpose(2, 1, 0)
    algorithm = highdicom.AlgorithmIdentificationSequence("sam2fast", codes.DCM.ArtificialIntelligence, version)
    segments = [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            # Converts the id to a value of DICOM's type LO.
            segment_label=re.sub(r"[\\\x00-\x1f\x7f]", " ", str(obj_id)).strip()[:64].strip() or "object",
            segmented_property_category=codes.SCT.Tissue,
            segmented_property_type=codes.SCT.Tissue,
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.SEMIAUTOMATIC,
            algorithm_identification=algorithm,
        )
        for number, obj_id in enumerate(ids, 1)
    ]
    for segment, obj_id in zip(segments, ids, strict=True):
        if segment.SegmentLabel != str(obj_id):
            segment.SegmentDescription = str(obj_id)
    try:
        segmentation = highdicom.seg.Segmentation(
            source_images=list(volume.datasets),
            pixel_array=planes,
            segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=segments,
            series_instance_uid=highdicom.UID(),
            series_number=100,
            sop_instance_uid=highdicom.UID(),
            instance_number=1,
            manufacturer="sam2fast",
            manufacturer_model_name="sam2fast",
            software_versions=version,
            device_serial_number="0",
            series_description="sam2fast, not a medical device",
            specific_character_set="ISO_IR 192",  # the character set UTF-8
        )
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"the DICOM images lack what a segmentation needs: {error}") from error
    content = BytesIO()
    segmentation.save_as(content)
    with atomic_write(Path(file)) as opened:
        opened.write(content.getvalue())
    return ids
