"""Synthetic scans of ellipsoids, as NIfTI files and as DICOM series and multi-frame files."""

from pathlib import Path

import numpy as np

SPACING = (1.0, 1.5, 2.0)  # mm between columns, rows and slices
CENTRE, RADII = np.array([3.0, -4.0, 5.0]), np.array([14.0, 18.0, 16.0])  # mm, RAS
INSIDE, OUTSIDE = 120, -80


def rotation(degrees=(0.0, 0.0, 0.0)):
    """A rotation matrix (3, 3) about the three axes in turn."""
    turned = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        a, b = [i for i in range(3) if i != axis]
        one = np.eye(3)
        one[a, a] = one[b, b] = np.cos(angle)
        one[a, b], one[b, a] = -np.sin(angle), np.sin(angle)
        turned = one @ turned
    return turned


def centred_affine(shape, axes, spacing=SPACING):
    """The affine (RAS+) of a grid about the origin; ``axes`` has the voxel axes' directions as columns."""
    affine = np.eye(4)
    affine[:3, :3] = axes * np.asarray(spacing)
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def ellipsoid(shape, affine, centre=CENTRE, radii=RADII):
    """Which voxels ``shape`` lie inside, bool."""
    places = np.indices(shape).reshape(3, -1).T @ affine[:3, :3].T + affine[:3, 3]
    return ((((places - centre) / radii) ** 2).sum(1) <= 1).reshape(shape)


def scan(shape, affine):
    """Returns noisy values of an ellipsoid ``shape``, int16, and where it is."""
    inside = ellipsoid(shape, affine)
    noise = np.random.default_rng(0).normal(0, 8, shape)
    return (np.where(inside, INSIDE, OUTSIDE) + noise).round().astype(np.int16), inside


def write_nifti_scan(file, values, affine, dtype="<i2"):
    """Writes a NIfTI file with this byte order and type."""
    import nibabel

    image = nibabel.Nifti1Image(values.astype(dtype), affine, dtype=np.dtype(dtype).newbyteorder("="))
    if np.dtype(dtype).byteorder == ">":
        header = nibabel.Nifti1Header(endianness=">")
        header.set_data_dtype(np.dtype(dtype))
        image = nibabel.Nifti1Image(values.astype(dtype), affine, header)
    nibabel.save(image, file)
    return Path(file)


def _image(uid, rows, columns, bits, signed):
    import pydicom
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid
    dataset.PatientID, dataset.PatientName, dataset.PatientBirthDate, dataset.PatientSex = "1", "Synthetic", "", "O"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.826.0.1.1", "1.2.826.0.1.2"
    dataset.FrameOfReferenceUID, dataset.Modality, dataset.SeriesNumber = "1.2.826.0.1.3", "CT", 1
    dataset.StudyID, dataset.AccessionNumber, dataset.ReferringPhysicianName = "1", "", ""
    dataset.StudyDate, dataset.StudyTime, dataset.Manufacturer = "20260101", "120000", ""
    dataset.PositionReferenceIndicator = ""
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = rows, columns, 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, bits, bits - 1
    dataset.PixelRepresentation = int(signed)
    return dataset


def _stored(values, bits, signed, intercept):
    stored = values.astype(np.int32) - intercept
    return stored.astype("<i2").tobytes() if signed else stored.astype("<u2").tobytes()


def _geometry(affine):
    """Row and column directions and the position of slice k, in LPS."""
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    sides = np.linalg.norm(lps[:3, :3], axis=0)
    directions = [*(lps[:3, 0] / sides[0]), *(lps[:3, 1] / sides[1])]
    return directions, [sides[1], sides[0]], lambda k: (lps @ [0, 0, k, 1])[:3].tolist()


def write_series(folder, values, affine, bits=12, signed=False, intercept=-1024, order=None):
    """Writes a DICOM series with a file for each slice ``values[:, :, k]``, named in the order of ``order``."""
    folder = Path(folder)
    folder.mkdir()
    directions, spacing, position = _geometry(affine)
    columns, rows, count = values.shape
    for number, k in enumerate(range(count) if order is None else order):
        dataset = _image(f"1.2.826.0.1.4.{k + 1}", rows, columns, bits, signed)
        dataset.ImageOrientationPatient, dataset.PixelSpacing = directions, spacing
        dataset.ImagePositionPatient, dataset.InstanceNumber = position(k), number + 1
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, intercept
        dataset.SliceThickness = float(np.linalg.norm(affine[:3, 2]))
        dataset.PixelData = _stored(values[:, :, k].T, bits, signed, intercept)
        dataset.save_as(folder / f"IM{number:04d}", enforce_file_format=True)
    return folder


def write_multi_frame(file, values, affine, order):
    """Writes an enhanced CT file whose frames are the slices ``values[:, :, k]`` in the order of ``order``."""
    from pydicom import Dataset
    from pydicom.uid import EnhancedCTImageStorage

    directions, spacing, position = _geometry(affine)
    columns, rows, count = values.shape
    dataset = _image("1.2.826.0.1.5", rows, columns, 16, True)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    dataset.InstanceNumber, dataset.NumberOfFrames = 1, count
    shared, orientation, measures, rescale = (Dataset() for _ in range(4))
    orientation.ImageOrientationPatient, measures.PixelSpacing = directions, spacing
    measures.SliceThickness = float(np.linalg.norm(affine[:3, 2]))
    rescale.RescaleSlope, rescale.RescaleIntercept, rescale.RescaleType = 2, -1, "HU"
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    shared.PixelValueTransformationSequence = [rescale]
    dataset.SharedFunctionalGroupsSequence, dataset.PerFrameFunctionalGroupsSequence = [shared], []
    for k in order:
        plane, frame = Dataset(), Dataset()
        plane.ImagePositionPatient = position(k)
        frame.PlanePositionSequence = [plane]
        dataset.PerFrameFunctionalGroupsSequence.append(frame)
    frames = np.stack([values[:, :, k].T for k in order])
    dataset.PixelData = ((frames.astype(np.int32) + 1) // 2).astype("<i2").tobytes()
    dataset.save_as(file, enforce_file_format=True)
    return Path(file)
