"""``video_io/volumes.py``: NIfTI and DICOM as videos. What is stored where is known from synthetic ellipsoids."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from scans import (
    CENTRE,
    INSIDE,
    OUTSIDE,
    centred_affine,
    rotation,
    scan,
    write_multi_frame,
    write_nifti_scan,
    write_series,
)

from sam2fast.video_io import VideoError, Volume, open_frames, open_volume, read_frames

nibabel = pytest.importorskip("nibabel", reason="needs the extra medical")
pydicom = pytest.importorskip("pydicom", reason="needs the extra medical")
SHAPE = (40, 36, 30)  # columns, rows and slices
# The voxel axes' directions (RAS) as columns.
AXES = {
    "RAS": np.eye(3),
    "LPS": np.diag([-1.0, -1.0, 1.0]),
    "PSR": np.array([[0, 0, 1.0], [-1.0, 0, 0], [0, 1.0, 0]]),
    "oblique": rotation((12, -17, 23)) @ np.diag([-1.0, 1.0, -1.0]),
}


@pytest.fixture
def series(tmp_path):
    affine = centred_affine(SHAPE, AXES["LPS"])
    return write_series(tmp_path / "series", scan(SHAPE, affine)[0], affine)


def change(file, **attributes):
    dataset = pydicom.dcmread(file)
    for name, value in attributes.items():
        setattr(dataset, name, value)
    dataset.save_as(file)


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
def test_slices_are_upright_whatever_the_order_of_voxels(tmp_path, axes, axis):
    """A bright voxel towards the patient's left, back and head is where a viewer shows it."""
    affine = centred_affine(SHAPE, AXES[axes])
    values = np.zeros(SHAPE, np.int16)
    ras = np.array([-9.0, -13.0, 11.0])
    ijk = np.linalg.solve(affine, [*ras, 1])[:3].round().astype(int)
    values[tuple(ijk)] = 100
    volume = open_volume(write_nifti_scan(tmp_path / "a.nii", values, affine), axis, (0, 100))
    frame, row, column = (int(i[0]) for i in np.nonzero(np.stack(volume)))
    ends = {"axial": (1, 1, 1), "coronal": (1, 0, 1), "sagittal": (1, 0, 1)}[axis]
    for place, count, is_second_half in zip((frame, row, column), (len(volume), *volume[0].shape), ends, strict=True):
        assert (place > (count - 1) / 2) == is_second_half
    assert volume[frame].dtype == np.uint8 and volume[frame][row, column] == 255
    assert np.shares_memory(volume.as_frames(volume.values), volume.values)


def test_frames_are_the_windowed_slices(tmp_path):
    affine = centred_affine(SHAPE, AXES["LPS"])
    values, _ = scan(SHAPE, affine)
    file = write_nifti_scan(tmp_path / "scan.nii.gz", values, affine)
    frames = open_frames(str(file), 64, window=(-100, 155), axis="axial")
    assert (len(frames), frames.height, frames.width) == (30, 36, 40)
    volume = open_volume(file, window=(-100, 155))
    assert np.array_equal(volume[7], (values[:, :, 7].T.astype(int) + 100).clip(0, 255))
    assert np.array_equal(frames.pixels(7), open_frames(volume, 64).pixels(7))
    assert np.array_equal(next(iter(read_frames(volume, 64))).rgb[..., 0], volume[0])
    low, high = open_volume(file).window
    assert OUTSIDE - 30 < low < OUTSIDE < INSIDE < high < INSIDE + 40
    assert frames.pixels(3).shape == (64, 64, 3)


def test_pixels_need_not_be_square(tmp_path):
    values, affine = np.zeros(SHAPE, np.int16), centred_affine(SHAPE, AXES["RAS"], (1.0, 1.0, 4.0))
    file = write_nifti_scan(tmp_path / "scan.nii", values, affine)
    assert [float(open_volume(file, axis).pixel_aspect) for axis in ("axial", "coronal")] == [1, 0.25]
    assert float(read_frames(open_volume(file, "sagittal"), 32).pixel_aspect) == 0.25


@pytest.mark.parametrize("dtype", ["<i2", ">i2", ">f4", "<u1"])
def test_nifti_types(tmp_path, dtype):
    affine = centred_affine(SHAPE, AXES["oblique"])
    values = scan(SHAPE, affine)[0].clip(0, 200)
    volume = open_volume(write_nifti_scan(tmp_path / "scan.nii", values, affine, dtype))
    assert np.array_equal(volume.values, values)
    assert np.allclose(volume.affine, affine, atol=1e-4)


def test_nan_is_black(tmp_path):
    values = np.full(SHAPE, 50.0, np.float32)
    values[3, 2, 1] = np.nan
    volume = open_volume(write_nifti_scan(tmp_path / "a.nii", values, np.diag([-1, -1, 1, 1]), "<f4"), window=(0, 50))
    assert volume[1][2, 3] == 0 and volume[1][2, 4] == 255


@pytest.mark.parametrize(("bits", "signed", "intercept"), [(12, False, -1024), (12, True, 0), (16, True, 0)])
@pytest.mark.parametrize("axes", ["LPS", "oblique"])
def test_dicom_series(tmp_path, bits, signed, intercept, axes):
    affine = centred_affine(SHAPE, AXES[axes])
    values, _ = scan(SHAPE, affine)
    folder = write_series(
        tmp_path / "series", values, affine, bits, signed, intercept, order=np.random.default_rng(1).permutation(30)
    )
    (folder / "notes.txt").write_text("not an image")
    volume = open_volume(folder)
    flipped = np.linalg.det(affine) * np.linalg.det(np.diag([-1.0, -1.0, 1.0])) < 0  # sorted along the slices' normal
    assert np.array_equal(volume.values, values[..., ::-1] if flipped else values)
    expected = affine @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 29], [0, 0, 0, 1]]) if flipped else affine
    assert np.allclose(volume.affine, expected, atol=1e-4)
    centre = np.argwhere(volume.values > 20).mean(0)
    assert np.allclose((volume.affine @ [*centre, 1])[:3], CENTRE, atol=0.5)


def test_multi_frame_file(tmp_path):
    affine = centred_affine(SHAPE, AXES["LPS"])
    values = scan(SHAPE, affine)[0] // 2 * 2 - 1  # what slope 2 and intercept -1 can store
    order = np.random.default_rng(0).permutation(30)
    volume = open_volume(write_multi_frame(tmp_path / "scan.dcm", values, affine, order))
    assert np.array_equal(volume.values, values)
    assert np.allclose(volume.affine, affine, atol=1e-4)


def test_stated_window(series):
    for file in series.iterdir():
        change(file, WindowCenter=[40, 300], WindowWidth=[400, 1500])
    assert open_volume(series).window == (-160, 240)
    assert open_volume(series, window=(0, 1)).window == (0, 1)


def test_low_values_of_monochrome1_are_white(series):
    as_usual = open_volume(series, window=(-100, 155))
    for file in series.iterdir():
        change(file, PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(open_volume(series, window=(-100, 155))[7], 255 - as_usual[7])


@pytest.mark.parametrize("of_frames", [False, True], ids=["file", "frames"])
def test_stated_window_of_a_multi_frame_file(tmp_path, of_frames):
    affine = centred_affine(SHAPE, AXES["LPS"])
    file = write_multi_frame(tmp_path / "scan.dcm", scan(SHAPE, affine)[0], affine, np.arange(30))
    dataset, window = pydicom.dcmread(file), pydicom.Dataset()
    window.WindowCenter, window.WindowWidth = 40, 400
    if of_frames:
        dataset.SharedFunctionalGroupsSequence[0].FrameVOILUTSequence = [window]
    else:
        dataset.update(window)
    dataset.save_as(file)
    assert open_volume(file).window == (-160, 240)


def test_examples_of_nibabel_and_pydicom():
    """Files that these packages ship: a big-endian brain, time series, slices and a gap of 20 cm."""
    data = Path(nibabel.__file__).parent / "tests/data"
    image = nibabel.load(data / "anatomical.nii")
    volume = open_volume(data / "anatomical.nii", "coronal")
    assert (len(volume), *volume[0].shape) == (41, 25, 33)
    assert np.array_equal(volume.values, image.get_fdata())
    assert np.array_equal(volume.affine, image.affine)
    with pytest.raises(VideoError, match=r"\(17, 21, 3, 20\), a time series"):
        open_volume(data / "functional.nii")
    data = Path(pydicom.__file__).parent / "data/test_files"
    with pytest.raises(VideoError, match="CT_small.dcm is one slice"):
        open_volume(data / "CT_small.dcm")
    with pytest.raises(VideoError, match="SC_rgb_rle_2frame.dcm has colours"):
        open_volume(data / "SC_rgb_rle_2frame.dcm")
    with pytest.raises(VideoError, match="does not state the position of its slice"):
        open_volume(data / "rtdose.dcm")
    with pytest.raises(VideoError, match=r"202\.5 mm between .*17106 and .*17136, elsewhere 1\.25 mm"):
        open_volume(data / "dicomdirtests/77654033/CT2")
    with pytest.raises(VideoError, match="has 3 series"):
        open_volume(data / "dicomdirtests/98892003/MR1")
    with pytest.raises(VideoError, match="has another orientation"):
        open_volume(data / "dicomdirtests/98892003/MR700")


def test_missing_slice(series):
    (series / "IM0011").unlink()
    with pytest.raises(VideoError, match=r"slices are missing .* 4 mm between .*IM0010 and .*IM0012, elsewhere 2 mm"):
        open_volume(series)


def test_other_errors_of_a_series(series):
    shutil.copy(series / "IM0003", series / "again")
    with pytest.raises(VideoError, match="lie at the same place"):
        open_volume(series)
    (series / "again").unlink()
    change(series / "IM0004", Rows=18, PixelData=bytes(40 * 18 * 2))
    with pytest.raises(VideoError, match=r"IM0004 has 40x18 pixels, and .*IM0000 40x36"):
        open_volume(series)
    (series / "IM0004").write_bytes(bytes(128) + b"DICMnonsense")
    with pytest.raises(VideoError, match="slices are missing"):
        open_volume(series)


def test_compressed_without_a_decoder(series):
    dataset = pydicom.dcmread(series / "IM0000")
    dataset.compress(pydicom.uid.RLELossless)
    dataset.save_as(series / "IM0000")
    assert len(open_volume(series)) == 30
    meta = pydicom.dcmread(series / "IM0001")
    meta.file_meta.TransferSyntaxUID = pydicom.uid.JPEG2000Lossless
    meta.PixelData = pydicom.encaps.encapsulate([b"\xff\x4f\xff\x51" + bytes(60)])
    meta["PixelData"].VR = "OB"
    meta.save_as(series / "IM0001")
    with pytest.raises(VideoError, match=r"IM0001 \(JPEG 2000 .* cannot be decoded: .*pip install pylibjpeg"):
        open_volume(series)


def test_errors(tmp_path):
    file = write_nifti_scan(tmp_path / "a.nii", np.zeros(SHAPE, np.int16), np.eye(4))
    with pytest.raises(VideoError, match="axis is 'sideways'; expected axial, coronal, sagittal"):
        open_frames(file, 32, axis="sideways")
    with pytest.raises(ValueError, match="window is"):
        open_frames(file, 32, window=(3, 1))
    with pytest.raises(VideoError, match="pass its window and axis to open_volume"):
        open_frames(open_volume(file), 32, window=(0, 1))
    with pytest.raises(VideoError, match="an axis is for volumes"):
        open_frames([np.zeros((9, 9, 3), np.uint8)], 32, axis="axial")
    with pytest.raises(FileNotFoundError, match="no volume"):
        open_volume(tmp_path / "b.nii")
    (tmp_path / "empty").mkdir()
    with pytest.raises(VideoError, match="has no DICOM images"):
        open_volume(tmp_path / "empty")
    for name, content in (("b.nii", b"text"), ("c.nii.gz", b"\x1f\x8b" + bytes(20))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(VideoError, match=f"{name} cannot be read as NIfTI"):
            open_volume(tmp_path / name)
    os.truncate(file, 2000)
    with pytest.raises(VideoError, match="cannot be read as NIfTI"):
        open_volume(file)
    with pytest.raises(VideoError, match="not invertible"):
        Volume(np.zeros(SHAPE, np.int16), np.diag([1.0, 1, 0, 1]), "axial", (0, 1))


def test_folders_of_images_stay_videos(tmp_path, series):
    from PIL import Image

    shutil.copy(series / "IM0003", tmp_path / "IM0003.dcm")
    for index in range(3):
        Image.fromarray(np.zeros((12, 10), np.uint8)).save(tmp_path / f"{index}.png")
    assert len(open_frames(tmp_path, 32)) == 3
    assert len(open_frames(series, 32)) == 30
