"""Reads volumes of NIfTI files and DICOM series, with slices as video frames. Needs the extra ``medical``."""

import zlib
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from fractions import Fraction
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from sam2fast.io.images import SUFFIXES
from sam2fast.utils.errors import requires
from sam2fast.video_io.arrays import Window, check_window
from sam2fast.video_io.video_types import VideoError

Axis: TypeAlias = Literal["axial", "coronal", "sagittal"]
# Side of the patient (Left, Posterior, Superior, Inferior) to which increasing frames, rows and columns point.
DIRECTIONS = {"axial": "SPL", "coronal": "PIL", "sagittal": "LIP"}
NIFTI = (".nii", ".nii.gz")
DICOM_MAGIC_AT, DICOM_MAGIC = 128, b"DICM"
SPACING_TOLERANCE = 0.1  # relative tolerance of the distance between slices
PARALLEL_TOLERANCE = 1e-3  # tolerance of direction cosines, and of pixel spacings in mm
PERCENTILES = (0.5, 99.5)  # percentiles of the values that become black and white by default
PERCENTILE_SAMPLES = 10**6  # approximate number of values for the percentiles
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def is_volume(source: Any) -> bool:
    """Returns True for the path of a NIfTI or DICOM file, or of a folder with DICOM files and no image files."""
    if not isinstance(source, str | Path):
        return False
    path = Path(source)
    with suppress(OSError, ValueError):  # opening the path raises the error again
        if path.is_dir():
            files = list(path.iterdir())
            return not any(f.name.lower().endswith(SUFFIXES) for f in files) and any(map(_is_dicom, files))
        return path.is_file() and (path.name.lower().endswith(NIFTI) or _is_dicom(path))
    return False


def _is_dicom(path: Path) -> bool:
    with suppress(OSError):
        if path.is_file():
            with open(path, "rb") as file:
                file.seek(DICOM_MAGIC_AT)
                return file.read(len(DICOM_MAGIC)) == DICOM_MAGIC
    return False


class Volume(Sequence[NDArray[np.uint8]]):
    """Sequence of a volume's slices along one axis, as grey images ``(H, W)`` uint8.

    The window's low value becomes black, and the high value white. In DICOM with ``MONOCHROME1``, the high value
    becomes black.

    Axial slices are ordered from inferior to superior, coronal slices from anterior to posterior, sagittal slices from
    right to left. Slices are upright as in viewers: the patient's left is on the right, or the back in sagittal slices.

    Args:
        values: Stored values ``(I, J, K)`` in the scan's units.
        affine: Matrix ``(4, 4)`` that maps voxel indices (i, j, k) to millimetres to the right, anterior and superior
            (RAS+).
        axis: ``"axial"``, ``"coronal"`` or ``"sagittal"``. Slices are perpendicular to the closest axis of the voxels.
        window: Values (low, high) that become black and white.
        header: Header of the NIfTI file.
        datasets: Datasets of the DICOM series without pixels, in the order of k. A multi-frame file has only one
            dataset.
        frame_order: Frame number of each slice in the multi-frame file, in the order of k.

    Attributes:
        pixel_aspect: Aspect ratio width / height of a slice's pixels.

    Raises:
        VideoError: If the axis is unknown, or the affine is not invertible.
        ValueError: If the window is not a pair of ascending numbers.
    """

    def __init__(
        self,
        values: NDArray[Any],
        affine: NDArray[np.float64],
        axis: Axis,
        window: Window,
        header: Any = None,
        datasets: Sequence[Any] = (),
        frame_order: Sequence[int] = (),
    ) -> None:
        if axis not in DIRECTIONS:
            raise VideoError(f"axis is {axis!r}; expected {', '.join(DIRECTIONS)}")
        check_window(window)
        if not np.isfinite(affine).all() or abs(np.linalg.det(affine)) == 0:
            raise VideoError(f"the affine of the volume is not invertible: {affine.tolist()}")
        self.values, self.affine, self.axis, self.window = values, affine, axis, window
        self.header, self.datasets, self.frame_order = header, datasets, frame_order
        self._low_is_white = bool(datasets) and datasets[0].get("PhotometricInterpretation") == "MONOCHROME1"
        nibabel = import_medical("nibabel")
        orientations = nibabel.orientations
        self._rotation = orientations.ornt_transform(
            orientations.io_orientation(affine), orientations.axcodes2ornt(tuple(DIRECTIONS[axis]))
        )
        rotated = affine @ orientations.inv_ornt_aff(self._rotation, values.shape)
        _, height, width = nibabel.affines.voxel_sizes(rotated).tolist()
        self.pixel_aspect = Fraction(width / height).limit_denominator(1000)
        self._slices = self.as_frames(values)

    def as_frames(self, voxels: NDArray[Any]) -> NDArray[Any]:
        """Returns a view ``(N, H, W)`` of voxels ``(I, J, K)``, with slices in the order of the frames."""
        return cast(NDArray[Any], import_medical("nibabel").orientations.apply_orientation(voxels, self._rotation))

    def __len__(self) -> int:
        return len(self._slices)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]  # Sequence's two overloads
        low, high = self.window
        values = np.nan_to_num(self._slices[index].astype(np.float32), nan=low)
        shares = ((values - low) / (high - low)).clip(0, 1)
        return ((1 - shares if self._low_is_white else shares) * 255).round().astype(np.uint8)


def open_volume(path: str | Path, axis: Axis = "axial", window: Window | None = None) -> Volume:
    """Reads all values of a volume, which take 4 bytes per voxel.

    Args:
        path: NIfTI file (``.nii``, ``.nii.gz``), folder with the files of one DICOM series, or multi-frame DICOM file
            with the position of each frame. Other files of the folder are ignored.
        axis: Axis of the slices that become frames: ``"axial"``, ``"coronal"`` or ``"sagittal"``.
        window: Values (low, high) in the scan's units, such as Hounsfield units, that become black and white. By
            default, the first window that DICOM states, or else the percentiles 0.5 and 99.5.

    Raises:
        FileNotFoundError: If the file or folder does not exist.
        VideoError: If the data are not a volume of grey values, but for example one slice, a time series or a colour
            image; if slices of a series are missing, or differ in size or orientation; or if decoding fails.
        ValueError: If the window is not a pair of ascending numbers.
        ImportError: If nibabel, or pydicom for DICOM, is not installed.
    """
    source = Path(path)
    if not source.exists():
        raise FileNotFoundError(f"no volume {str(path)!r}")
    if source.is_file() and source.name.lower().endswith(NIFTI):
        return _open_nifti(source, axis, window)
    return _open_dicom(source, axis, window)


def import_medical(name: str) -> Any:
    """Imports a module of the extra ``medical``. If the module is missing, raises an ImportError with advice."""
    with requires(f"volumes need {name}: pip install 'sam2fast[medical]'"):
        return import_module(name)


def _default_window(values: NDArray[Any]) -> Window:
    sample = values.flat[:: max(1, values.size // PERCENTILE_SAMPLES)]
    sample = sample[np.isfinite(sample)]
    low, high = np.percentile(sample, PERCENTILES).tolist() if sample.size else (0.0, 1.0)
    return (low, high) if low < high else (low, low + 1)


def _open_nifti(file: Path, axis: Axis, window: Window | None) -> Volume:
    nibabel = import_medical("nibabel")
    try:
        image = nibabel.load(file)
        shape = image.shape[:3] if all(n == 1 for n in image.shape[3:]) else image.shape
        if len(shape) != 3 or 0 in shape:
            fault = "a time series or several channels" if len(shape) > 3 else "no volume"
            raise VideoError(f"{file} has the shape {image.shape}, {fault}; expected three dimensions")
        if image.get_data_dtype().kind not in "iuf":
            raise VideoError(f"{file} has values of the type {image.get_data_dtype()}; expected one number per voxel")
        values = np.asarray(image.dataobj, dtype=np.float32).reshape(shape)
    except (
        OSError,
        EOFError,
        zlib.error,
        nibabel.filebasedimages.ImageFileError,
        nibabel.spatialimages.HeaderDataError,
    ) as error:
        raise VideoError(f"{file} cannot be read as NIfTI: {error}") from error
    return Volume(values, image.affine, axis, window or _default_window(values), header=image.header)


class _Slice(NamedTuple):
    """Stores a DICOM slice and its position in the patient, in DICOM's coordinates (LPS) in mm."""

    name: str  # name for messages
    number: int  # index of the frame in its file
    size: tuple[int, int]  # rows and columns
    position: tuple[float, ...]  # (3) coordinates of the first pixel
    directions: tuple[float, ...]  # (6) unit vectors along a row, then along a column
    spacing: tuple[float, ...]  # (2) distance between rows, and between columns
    scale: tuple[float, float]  # slope and intercept that convert stored values to the scan's units
    window: Window | None  # first window that the file states for the slice
    dataset: Any


def _open_dicom(path: Path, axis: Axis, window: Window | None) -> Volume:
    datasets = _read_datasets(path)
    slices = [one for dataset, name in datasets for one in _slices_of(dataset, name)]
    affine, slices = _sorted_slices(path, slices)
    pixels = {id(dataset): _decoded(dataset, name) for dataset, name in datasets}
    values = np.empty((len(slices), *slices[0].size), np.float32)
    for target, one in zip(values, slices, strict=True):
        stored = pixels[id(one.dataset)]
        target[:] = stored if stored.ndim == 2 else stored[one.number]
        target *= one.scale[0]
        target += one.scale[1]
    voxels = values.transpose(2, 1, 0)
    window = window or slices[0].window or _default_window(voxels)
    is_multi_frame = len(datasets) == 1
    ordered = [slices[0].dataset] if is_multi_frame else [one.dataset for one in slices]
    return Volume(voxels, affine, axis, window, datasets=ordered, frame_order=[one.number for one in slices])


def _read_datasets(path: Path) -> list[tuple[Any, str]]:
    """Returns pairs of a dataset of the series and the name of the dataset's file."""
    pydicom = import_medical("pydicom")
    datasets = []
    for file in sorted(f for f in path.iterdir() if _is_dicom(f)) if path.is_dir() else [path]:
        try:
            dataset = pydicom.dcmread(file)
        except (pydicom.errors.InvalidDicomError, OSError, EOFError, ValueError, KeyError) as error:
            raise VideoError(f"{file} cannot be read as DICOM: {error}") from error
        if "PixelData" in dataset:
            datasets.append((dataset, str(file)))
    series = Counter(str(dataset.get("SeriesInstanceUID")) for dataset, _ in datasets)
    if not series:
        raise VideoError(f"{path} has no DICOM images; a volume is a folder with a series, or a multi-frame file")
    if len(series) > 1:
        counts = ", ".join(f"{uid} ({count} files)" for uid, count in series.items())
        raise VideoError(f"{path} has {len(series)} series: {counts}; give a folder of a single series")
    return datasets


def _slices_of(dataset: Any, name: str) -> list[_Slice]:
    """Returns the slices of a file in order. Raises ``VideoError`` for colours or an unknown position of a slice."""
    if dataset.get("SamplesPerPixel", 1) != 1:
        raise VideoError(f"{name} has colours; expected one number per voxel")

    def of_frame(index: int, group: str, keyword: str, default: Any = None) -> Any:
        frames, shared = (dataset.get(f"{scope}FunctionalGroupsSequence") for scope in ("PerFrame", "Shared"))
        for holder in (frames[index] if frames else None, shared[0] if shared else None):
            if holder is not None and holder.get(group):
                return holder[group][0].get(keyword, default)
        return default if frames or count > 1 else dataset.get(keyword, default)

    count, size = int(dataset.get("NumberOfFrames") or 1), (int(dataset.Rows), int(dataset.Columns))
    slices = []
    for index in range(count):
        label = f"{name}, frame {index}" if count > 1 else name
        position = of_frame(index, "PlanePositionSequence", "ImagePositionPatient")
        directions = of_frame(index, "PlaneOrientationSequence", "ImageOrientationPatient")
        spacing = of_frame(index, "PixelMeasuresSequence", "PixelSpacing")
        if not (position and directions and spacing):
            raise VideoError(f"{label} does not state the position of its slice in the patient, so it is no volume")
        transformation = "PixelValueTransformationSequence"
        slope = of_frame(index, transformation, "RescaleSlope", 1)
        intercept = of_frame(index, transformation, "RescaleIntercept", 0)
        position, directions, spacing = (tuple(map(float, numbers)) for numbers in (position, directions, spacing))
        scale = float(slope), float(intercept)
        stated = (
            of_frame(index, "FrameVOILUTSequence", keyword) or dataset.get(keyword)
            for keyword in ("WindowCenter", "WindowWidth")
        )
        slices.append(_Slice(label, index, size, position, directions, spacing, scale, _first_window(*stated), dataset))
    return slices


def _sorted_slices(path: Path, slices: Sequence[_Slice]) -> tuple[NDArray[np.float64], list[_Slice]]:
    """Returns the affine ``(4, 4)`` to RAS+ and the ordered slices. Raises ``VideoError`` for invalid volumes."""
    first = slices[0]
    if len(slices) < 2:
        raise VideoError(f"{first.name} is one slice; a volume is a folder with a series, or a multi-frame file")
    for one in slices:
        if one.size != first.size:
            rows, columns = one.size
            raise VideoError(
                f"{one.name} has {columns}x{rows} pixels, and {first.name} {first.size[1]}x{first.size[0]}; all slices "
                "of a volume have the same size"
            )
        if not np.allclose(one.directions + one.spacing, first.directions + first.spacing, atol=PARALLEL_TOLERANCE):
            raise VideoError(f"{one.name} has another orientation or pixel spacing than {first.name}")
    row, column = np.array(first.directions[:3]), np.array(first.directions[3:])
    normal = np.cross(row, column)
    ordered = sorted(slices, key=lambda one: float(normal @ one.position))
    steps = np.diff([normal @ one.position for one in ordered])
    typical = float(np.median(steps))
    worst = int(np.abs(steps - typical).argmax())
    before, after, step = ordered[worst].name, ordered[worst + 1].name, float(steps[worst])
    if typical <= 0 or step <= SPACING_TOLERANCE * typical:
        raise VideoError(f"{before} and {after} lie at the same place, as in a time series; expected one volume")
    if abs(step - typical) > SPACING_TOLERANCE * typical:
        raise VideoError(
            f"{path}: slices are missing or unevenly spaced: {step:g} mm between {before} and {after}, elsewhere "
            f"{typical:g} mm"
        )
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = row * first.spacing[1], column * first.spacing[0]
    affine[:3, 2] = np.subtract(ordered[-1].position, ordered[0].position) / (len(ordered) - 1)
    affine[:3, 3] = ordered[0].position
    return LPS_TO_RAS @ affine, ordered


def _decoded(dataset: Any, name: str) -> NDArray[Any]:
    """Decodes values ``(rows, columns)`` or ``(frames, rows, columns)``, and deletes the dataset's pixel data."""
    try:
        pixels = cast(NDArray[Any], dataset.pixel_array)
    except Exception as error:  # exception types depend on the decoder
        syntax = getattr(dataset.file_meta.get("TransferSyntaxUID"), "name", "an unknown transfer syntax")
        advice = "; for compressed files: pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg pylibjpeg-rle"
        reason = " ".join(str(error).split())
        raise VideoError(f"{name} ({syntax}) cannot be decoded: {reason}{advice}") from error
    del dataset.PixelData
    dataset._pixel_array = None
    return pixels


def _first_window(centers: Any, widths: Any) -> Window | None:
    """Returns the window of the first center and width, or None."""
    center, width = ([*np.atleast_1d(numbers or [])] for numbers in (centers, widths))
    if not (center and width and float(width[0]) > 0):
        return None
    return float(center[0]) - float(width[0]) / 2, float(center[0]) + float(width[0]) / 2
