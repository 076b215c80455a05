"""``sam2fast track`` of volumes: both directions, label volumes on the scan's grid, and what cannot be."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from commands import ends, ok
from scans import centred_affine, rotation, scan, write_nifti_scan, write_series
from track_runs import interrupt_after

from sam2fast.results import read_masks, to_label_volume
from sam2fast.video_io import open_volume

nibabel = pytest.importorskip("nibabel", reason="needs the extra medical")
PAGE = Path(__file__).parents[2] / "docs/volumes.md"
SHAPE = (40, 36, 12)
AFFINE = centred_affine(SHAPE, rotation((5, -7, 9)) @ np.diag([-1.0, -1.0, 1.0]), (1.0, 1.5, 4.0))
PROMPTS = ["--point", "6,liver,22,14", "--box", "7,kidney,3,20,12,30"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_nifti_scan(tmp_path_factory.mktemp("scan") / "scan.nii.gz", scan(SHAPE, AFFINE)[0], AFFINE)


def labels_of(file):
    return np.asarray(nibabel.load(file).dataobj)


def test_nifti(track, source, tmp_path):
    options = ["--window", "-160,240", "--format", "nifti,png,overlay"]
    ok(track(source, *PROMPTS, *options, "--out", tmp_path))
    volume = open_volume(source, window=(-160, 240))
    frames = list(read_masks(tmp_path / "masks.jsonl"))
    assert [found.frame for found in frames] == list(range(SHAPE[2]))  # both directions
    image, written = nibabel.load(source), nibabel.load(tmp_path / "masks.nii.gz")
    assert np.array_equal(written.affine, image.affine)
    labels = labels_of(tmp_path / "masks.nii.gz")
    assert labels.shape == SHAPE
    assert set(np.unique(labels)) <= {0, 1, 2} and (labels == 1).any()
    assert np.array_equal(labels > 0, to_label_volume(volume, frames)[0] > 0)
    from PIL import Image

    for frame, plane in enumerate(volume.as_frames(labels)):
        assert np.array_equal(np.asarray(Image.open(tmp_path / f"masks/{frame:05d}.png")), plane)
    facts = json.loads((tmp_path / "track.json").read_text())
    assert facts["objects"] == ["liver", "kidney"]
    assert facts["made_from"]["options"]["window"] == [-160, 240]
    again = track(source, *PROMPTS, *options, "--out", tmp_path)
    assert again.exit_code == 0 and "0 frames tracked" in again.stdout
    ends(track(source, *PROMPTS, "--window", "0,1", "--out", tmp_path), 1, "a run that differs in --window")


def test_objects_that_begin_on_different_slices(track, source, tmp_path):
    prompts = ["--point", "2,liver,22,14", "--box", "9,kidney,3,20,12,30"]
    options = ["--window", "-160,240", "--start", "1", "--out", tmp_path]
    ok(track(source, *prompts, *options))
    predictor = track.predictor
    state = predictor.init_state(open_volume(source, window=(-160, 240)))
    predictor.add_new_points_or_box(state, 2, "liver", points=[[22, 14]], labels=[1])
    predictor.add_new_points_or_box(state, 9, "kidney", box=[3, 20, 12, 30])
    expected = {frame: masks[:, 0] > 0 for frame, _, masks in predictor.propagate_both(state, progress=False)}
    found = {item.frame: item.masks for item in read_masks(tmp_path / "masks.jsonl")}
    assert list(found) == list(range(1, SHAPE[2]))
    for frame, masks in found.items():
        assert np.array_equal(masks, expected[frame].numpy()), frame
    assert "0 frames tracked" in track(source, *prompts, *options).stdout


def test_a_stopped_run_with_objects_on_different_slices_begins_again(track, source, tmp_path, monkeypatch):
    command = [source, "--point", "2,liver,22,14", "--box", "9,kidney,3,20,12,30"]
    track(*command, "--out", tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupt_after(patch, 5)
        stopped = track(*command, "--out", tmp_path / "stopped")
    assert "run the same command again to begin again" in stopped.stderr
    assert track(*command, "--out", tmp_path / "stopped").exit_code == 0
    assert (tmp_path / "stopped/masks.jsonl").read_bytes() == (tmp_path / "whole/masks.jsonl").read_bytes()


def test_axis_and_pixels_that_are_not_square(track, source, tmp_path):
    result = track(
        source,
        "--point",
        "20,1,20,6",
        "--axis",
        "coronal",
        "--end",
        "24",
        "--format",
        "nifti,overlay",
        "--out",
        tmp_path,
    )
    assert result.exit_code == 0 and "sound" not in result.stderr, result.stderr
    volume = open_volume(source, "coronal")
    assert json.loads((tmp_path / "track.json").read_text())["size"] == {"width": 40, "height": 12}
    assert volume.pixel_aspect == pytest.approx(1 / 4, abs=0.01)
    assert labels_of(tmp_path / "masks.nii.gz").shape == SHAPE
    av = pytest.importorskip("av", reason="needs the extra video")
    with av.open(str(tmp_path / "overlay.mp4")) as video:
        assert float(video.streams.video[0].sample_aspect_ratio) == pytest.approx(1 / 4, abs=0.01)


def test_dicom(track, tmp_path):
    pydicom = pytest.importorskip("pydicom", reason="needs the extra medical")
    pytest.importorskip("highdicom", reason="needs the extra medical")
    folder = write_series(tmp_path / "series", scan(SHAPE, AFFINE)[0], AFFINE)
    ok(track(folder, *PROMPTS, "--format", "nifti,dicom-seg", "--out", tmp_path / "out"))
    labels = labels_of(tmp_path / "out/masks.nii.gz")
    segmentation = pydicom.dcmread(tmp_path / "out/masks.dcm")
    assert [segment.SegmentLabel for segment in segmentation.SegmentSequence] == ["liver", "kidney"]
    assert segmentation.pixel_array.sum() == (labels > 0).sum() > 0


def test_the_documents_script(tmp_path, monkeypatch):
    shape = (230, 200, 42)
    affine = centred_affine(shape, np.diag([-1.0, -1.0, 1.0]), (0.8, 0.8, 3.0))
    write_nifti_scan(tmp_path / "scan.nii.gz", scan(shape, affine)[0], affine)
    monkeypatch.chdir(tmp_path)
    script = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert script is not None
    quick = '"sam2fast/nano", hydra_overrides_extra=["++model.image_size=64"]'
    exec(script[1].replace('"sam2fast/mini"', quick), {})
    assert labels_of(tmp_path / "liver.nii.gz").shape == shape
    assert np.array_equal(nibabel.load(tmp_path / "liver.nii.gz").affine, nibabel.load(tmp_path / "scan.nii.gz").affine)


def test_errors(track, source, tmp_path):
    folder = tmp_path / "out"

    def message(*arguments):
        result = track(*arguments, "--point", "0,1,2,2", "--out", folder)
        assert result.exit_code in (1, 2) and not folder.exists()
        return result.stderr

    assert "scan.nii.gz is NIfTI; use --format nifti" in message(source, "--format", "dicom-seg")
    assert "is not LOW,HIGH, such as -160,240" in message(source, "--window", "4,3")
    assert "'oblique' is not one of" in message(source, "--axis", "oblique")
    (tmp_path / "frames").mkdir()
    from PIL import Image

    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "frames/0.png")
    for option in (["--format", "nifti"], ["--axis", "axial"], ["--window", "0,9"]):
        assert f"{' '.join(option[: 2 if 'nifti' in option else 1])} is for volumes" in message(
            tmp_path / "frames", *option
        )
    image = nibabel.Nifti1Image(np.zeros((4, 4, 4, 3), np.int16), np.eye(4))
    nibabel.save(image, tmp_path / "series.nii")
    assert "(4, 4, 4, 3), a time series" in message(tmp_path / "series.nii")
