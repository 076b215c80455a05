"""Names of videos in a folder."""

import pytest

from sam2fast.datasets.dataset_files import DatasetError
from sam2fast.evaluation.vos.input_masks import InputMasks
from sam2fast.evaluation.vos.listing import listed_names, videos_in


def test_videos(tmp_path):
    for name in ("b.MP4", "c.mov", "a.txt", ".d.mp4", "e.webm"):
        (tmp_path / name).touch()
    for name in ("e", "a.mp4"):
        (tmp_path / name).mkdir()
    assert {name: path.name for name, path in videos_in(tmp_path)[0].items()} == {
        "a.mp4": "a.mp4",
        "b": "b.MP4",
        "c": "c.mov",
        "e": "e",
    }
    (tmp_path / "b.mov").touch()
    found, ambiguous = videos_in(tmp_path)
    assert list(found) == ["a.mp4", "c", "e"] and list(ambiguous) == ["b"]
    assert ambiguous["b"].endswith("b.MP4 and b.mov have the same name")


def test_a_list_in_another_encoding(tmp_path):
    (tmp_path / "list.txt").write_bytes("Größe\n".encode("latin-1"))
    with pytest.raises(DatasetError, match="list.txt is not UTF-8 text"):
        listed_names(tmp_path / "list.txt")


def test_masks_in_the_other_layout_and_frames_of_one_name(tmp_path):
    (tmp_path / "001").mkdir()
    (tmp_path / "001/00000.png").touch()
    with pytest.raises(DatasetError, match="has folders of objects, such as 001: give --per-object"):
        InputMasks(tmp_path, ["00000"], per_object=False)
    with pytest.raises(DatasetError, match="several frames of the video are named 00001"):
        InputMasks(tmp_path, ["00000", "00001", "00001"], per_object=True)
