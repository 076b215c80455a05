"""Readers of prompts, results and annotations, as programs use the package."""

from pathlib import Path

from seeds_media import HEIGHT, WIDTH

from sam2fast.cli.mask_finder import MaskTask, read_previous_masks
from sam2fast.cli.model_choice import ModelChoice
from sam2fast.cli.prompt_texts import read_prompt_file
from sam2fast.cli.prompts import check_against_video, merge_prompts
from sam2fast.cli.track_folder import RunFolder
from sam2fast.datasets.davis import YouTubeVOS
from sam2fast.datasets.sav_json import read_masklets
from sam2fast.evaluation.clicks.sources import open_data_set
from sam2fast.results import read_masks, to_coco_video
from sam2fast.results.record import RecordIndex
from sam2fast.training.data.json_datasets import CocoRawDataset, JSONRawDataset, SA1BRawDataset

SIZE = (HEIGHT, WIDTH)


def prompts(path: Path) -> None:
    found = merge_prompts(read_prompt_file(path, "frame"), True)
    check_against_video(found, {}, *SIZE, 5, 0, None)


def record(path: Path) -> None:
    list(read_masks(path))
    to_coco_video(read_masks(path), size=SIZE)


def record_index(path: Path) -> None:
    index = RecordIndex(path)
    try:
        assert all(index[frame] for frame in index) and index.is_sorted in (True, False)
    finally:
        index.close()


def sav(path: Path) -> None:
    masklets = read_masklets(path)
    assert masklets.video_id and len(masklets.frame_indices) == len(masklets)
    for position in range(len(masklets)):
        masklets.masks(position)


def training_masklets(path: Path) -> None:
    data = JSONRawDataset(path.parent / "videos", path.parent)
    video = data.get_video(0)
    for position in range(len(video)):
        video.read_masks(position, video.visible_objects(position), SIZE)


def training_sa1b(path: Path) -> None:
    video = SA1BRawDataset(path.parent / "images", path.parent, mask_area_frac_thresh=0.9).get_video(0)
    video.read_masks(0, video.visible_objects(0), SIZE)


def training_coco(path: Path) -> None:
    data = CocoRawDataset(path.parent, path, categories=["thing"])
    video = data.get_video(0)
    video.read_masks(0, video.visible_objects(0), SIZE)


def click_coco(path: Path) -> None:
    for job in open_data_set(path.parent, path, "coco").jobs:
        job.masks.read(SIZE)


def youtube(path: Path) -> None:
    layout = YouTubeVOS(path.parent)
    for name in layout.videos():
        for _ in layout.open(name):
            pass


def run_folder(path: Path) -> None:
    folder = RunFolder(path.parent, {"video": "v", "prompts": [], "range": {"start": 0}}, False)
    assert folder.done >= 0 and folder.complete in (True, False)
    assert folder.state is None or folder.state.parent == folder.path


def earlier_masks(path: Path) -> None:
    task = MaskTask(ModelChoice("c", Path("w")), "float32", {"points_per_side": 4}, [], path.parent, {"weights": "w"})
    read_previous_masks(path, task, [], {})
