"""``results/volumes.py``: every voxel of a label volume lies where the scan's voxel lies."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from hard_names import HARD_NAMES
from scans import centred_affine, ellipsoid, rotation, scan, write_multi_frame, write_nifti_scan, write_series

from sam2fast.results import to_label_volume, write_dicom_seg, write_nifti
from sam2fast.video_io import open_volume

nibabel = pytest.importorskip("nibabel", reason="needs the extra medical")
pydicom = pytest.importorskip("pydicom", reason="needs the extra medical")
SHAPE = (40, 36, 30)
OBLIQUE = centred_affine(SHAPE, rotation((12, -17, 23)) @ np.diag([-1.0, 1.0, -1.0]))
SMALL = {"centre": np.array([-8.0, 9.0, -12.0]), "radii": np.array([5.0, 6.0, 7.0])}


def results(volume, affine):
    """What tracking would find: two ellipsoids' masks on each frame, made from the volume's places."""
    shapes = [ellipsoid(volume.values.shape, affine, **kind) for kind in ({}, SMALL)]
    large, small = (volume.as_frames(shape) for shape in shapes)
    frames = [(t, ["liver", 7], np.stack([large[t], small[t]])[:, None]) for t in range(len(volume))]
    return frames, np.where(shapes[1], 2, shapes[0]).astype(np.uint8)


@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("dtype", ["<i2", ">f4"])
def test_nifti_has_the_source_s_grid(tmp_path, axis, dtype):
    source = write_nifti_scan(tmp_path / "scan.nii.gz", scan(SHAPE, OBLIQUE)[0], OBLIQUE, dtype)
    image = nibabel.load(source)
    volume = open_volume(source, axis)
    frames, expected = results(volume, volume.affine)
    assert write_nifti(tmp_path / "labels.nii.gz", volume, reversed(frames)) == ["liver", 7]
    written = nibabel.load(tmp_path / "labels.nii.gz")
    assert written.get_data_dtype() == np.uint8
    assert np.array_equal(np.asarray(written.dataobj), expected)
    assert np.array_equal(written.affine, image.affine)
    assert nibabel.aff2axcodes(written.affine) == nibabel.aff2axcodes(image.affine)
    for matrix in ("get_sform", "get_qform"):
        ours, theirs = (getattr(one.header, matrix)(coded=True) for one in (written, image))
        assert ours[1] == theirs[1] and np.array_equal(ours[0], theirs[0])
    assert written.header.get_zooms() == image.header.get_zooms()


def test_an_example_of_nibabel_returns_to_its_grid(tmp_path):
    """A big-endian brain: what is brighter than the mean, slice by slice, is where the file has it."""
    source = Path(nibabel.__file__).parent / "tests/data/anatomical.nii"
    image = nibabel.load(source)
    values = image.get_fdata()
    for axis in ("axial", "coronal", "sagittal"):
        volume = open_volume(source, axis)
        bright = volume.as_frames(values > values.mean())
        write_nifti(tmp_path / f"{axis}.nii", volume, [(t, [1], bright[t][None]) for t in range(len(volume))])
        written = nibabel.load(tmp_path / f"{axis}.nii")
        assert np.array_equal(written.get_fdata(), values > values.mean())
        assert np.array_equal(written.affine, image.affine)


def test_nifti2_and_scaled_values(tmp_path):
    image = nibabel.Nifti2Image(np.arange(24, dtype=np.float32).reshape(2, 3, 4), np.diag([2, 2, 3, 1]))
    image.header.set_data_dtype(np.int16)
    image.header["cal_max"] = 23
    nibabel.save(image, tmp_path / "scan.nii")
    volume = open_volume(tmp_path / "scan.nii")
    assert np.allclose(volume.values, image.get_fdata(), atol=1e-3)
    write_nifti(tmp_path / "labels.nii.gz", volume, [(1, ["a"], np.ones((1, 3, 2), bool))])
    written = nibabel.load(tmp_path / "labels.nii.gz")
    assert isinstance(written, nibabel.Nifti2Image) and written.header["cal_max"] == 0
    assert np.array_equal(written.get_fdata().nonzero()[2], [1] * 6)
    assert gzip.decompress((tmp_path / "labels.nii.gz").read_bytes())[:4] == (540).to_bytes(4, "little")


def segments_of(file, count):
    """The segments of a DICOM segmentation by their slice's place, with labels."""
    dataset = pydicom.dcmread(file)
    labels = [segment.SegmentLabel for segment in dataset.SegmentSequence]
    found = {}
    for frame, mask in zip(dataset.PerFrameFunctionalGroupsSequence, dataset.pixel_array, strict=True):
        number = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        place = tuple(np.round(np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float), 2))
        found[number, place] = mask.astype(bool)
    return dataset, labels, found


@pytest.mark.parametrize("kind", ["series", "multi-frame"])
@pytest.mark.parametrize("axis", ["axial", "sagittal"])
def test_dicom_segmentation(tmp_path, kind, axis):
    pytest.importorskip("highdicom", reason="needs the extra medical")
    values, order = scan(SHAPE, OBLIQUE)[0], np.random.default_rng(0).permutation(SHAPE[2])
    if kind == "series":
        source = write_series(tmp_path / "scan", values, OBLIQUE, order=order)
    else:
        source = write_multi_frame(tmp_path / "scan.dcm", values, OBLIQUE, order)
    volume = open_volume(source, axis)
    frames, expected = results(volume, volume.affine)
    assert write_dicom_seg(tmp_path / "seg.dcm", volume, frames) == ["liver", 7]
    dataset, labels, found = segments_of(tmp_path / "seg.dcm", 2)
    assert (dataset.Modality, labels) == ("SEG", ["liver", "7"])
    assert dataset.FrameOfReferenceUID == "1.2.826.0.1.3"
    assert "not a medical device" in dataset.SeriesDescription
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine
    seen = 0
    for k in range(SHAPE[2]):
        place = tuple(np.round((lps @ [0, 0, k, 1])[:3], 2))
        for number in (1, 2):
            mask = np.equal(expected[:, :, k].T, number)
            assert np.array_equal(found.get((number, place), np.zeros_like(mask)), mask)
            seen += mask.any()
    assert seen == len(found)
    assert write_nifti(tmp_path / "labels.nii", volume, frames)
    assert np.array_equal(nibabel.load(tmp_path / "labels.nii").get_fdata(), expected)


@pytest.mark.parametrize(
    ("characters", "patient"),
    [
        (None, "Synthetic"),
        (["ISO_IR 100"], "Müller^José"),
        (["ISO 2022 IR 6", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎"),
        (["GB18030"], "王^小东"),
        (["ISO_IR 192"], "Иван^П"),
    ],
)
def test_names_of_any_script_in_dicom(tmp_path, characters, patient):
    """Also that of the patient, from a scan in other characters."""
    pytest.importorskip("highdicom", reason="needs the extra medical")
    source = write_series(tmp_path / "scan", scan(SHAPE, OBLIQUE)[0], OBLIQUE)
    for file in source.iterdir():
        dataset = pydicom.dcmread(file)
        dataset.SpecificCharacterSet, dataset.PatientName, dataset.StudyDescription = characters, patient, patient[:9]
        dataset.save_as(file)
    volume = open_volume(source)
    masks = np.zeros((len(HARD_NAMES), *volume[0].shape[:2]), bool)
    for i, mask in enumerate(masks):
        mask[i] = True
    assert write_dicom_seg(tmp_path / "seg.dcm", volume, [(0, HARD_NAMES, masks)]) == HARD_NAMES
    found = pydicom.dcmread(tmp_path / "seg.dcm")
    assert (found.SpecificCharacterSet, found.PatientName) == ("ISO_IR 192", patient)
    assert found.StudyDescription == patient[:9]
    segments = found.SegmentSequence
    assert [one.get("SegmentDescription", one.SegmentLabel) for one in segments] == [
        name.rstrip(" ") for name in HARD_NAMES
    ]
    labels = {one.SegmentLabel for one in segments}
    assert {"肝臓", "left/right", "left right", "spaces", "line break", "x" * 64} <= labels
    assert all(len(label) <= 64 for label in labels)


def test_errors(tmp_path):
    source = write_nifti_scan(tmp_path / "scan.nii", scan(SHAPE, OBLIQUE)[0], OBLIQUE)
    volume = open_volume(source)
    height, width = volume[0].shape
    with pytest.raises(ValueError, match=f"frame {len(volume)} is not in the volume"):
        to_label_volume(volume, [(len(volume), [1], np.ones((1, height, width), bool))])
    with pytest.raises(ValueError, match=r"a mask has the shape \(2, 2\)"):
        write_nifti(tmp_path / "labels.nii", volume, [(0, [1], np.ones((1, 2, 2), bool))])
    with pytest.raises(ValueError, match="refers to DICOM images"):
        write_dicom_seg(tmp_path / "seg.dcm", volume, [])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["scan.nii"]


def test_files_that_lack_what_a_segmentation_needs(tmp_path):
    pytest.importorskip("highdicom", reason="needs the extra medical")
    volume = open_volume(write_series(tmp_path / "scan", scan(SHAPE, OBLIQUE)[0], OBLIQUE))
    frames, _ = results(volume, volume.affine)
    with pytest.raises(ValueError, match="there are no objects"):
        write_dicom_seg(tmp_path / "seg.dcm", volume, [])
    for dataset in volume.datasets:
        del dataset.SliceThickness
    with pytest.raises(ValueError, match="the DICOM images lack what a segmentation needs: .*SliceThickness"):
        write_dicom_seg(tmp_path / "seg.dcm", volume, frames)
    assert not (tmp_path / "seg.dcm").exists()
