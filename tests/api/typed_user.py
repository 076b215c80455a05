"""A user's script, which check_user_types.py gives to mypy --strict. Comments state the types that it must find."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from typing_extensions import reveal_type

import sam2fast
from sam2fast import SAM2AutomaticMaskGenerator, SAM2ImagePredictor, SAM2VideoPredictor
from sam2fast.build_sam import build_sam2, build_sam2_hf, build_sam2_video_predictor, build_sam2_video_predictor_hf
from sam2fast.checkpoints import CheckpointError, LoadReport, choose_config, load_partial, read_checkpoint
from sam2fast.cli import main
from sam2fast.config import ConfigError, load_config
from sam2fast.deploy.compilation import compile_model, uncompile
from sam2fast.deploy.exported import load_predictor
from sam2fast.deploy.parallel import VideoJob, track_videos
from sam2fast.io.rle import decode_rle, encode_rle
from sam2fast.modeling.sam2_base import SAM2Base
from sam2fast.research import attention_maps, stage_features
from sam2fast.transforms import ImageError
from sam2fast.video_io import VideoError, open_frames, read_frames


def images(photo: Path) -> NDArray[Any]:
    model = build_sam2("configs/sam2.1/sam2.1_hiera_t.yaml", None, device="cpu", dtype=torch.bfloat16)
    reveal_type(model)  # reveal: sam2fast.modeling.sam2_base.SAM2Base
    predictor = SAM2ImagePredictor(model)
    predictor.set_image(Image.open(photo))
    predictor.set_image(photo)
    predictor.set_image(np.zeros((8, 8, 3), dtype=np.uint8))
    masks, scores, logits = predictor.predict(point_coords=[[5, 5]], point_labels=[1], multimask_output=False)
    reveal_type(masks)  # reveal: numpy.ndarray
    reveal_type(scores)  # reveal: numpy.ndarray
    predictor.set_image(photo.read_bytes())
    with photo.open("rb") as file:
        features = predictor.encode(file)
    rles, _, _ = predictor.predict(box=[1, 2, 3, 4], output_mode="coco_rle", features=features.to("cpu"))
    predictor.set_image_batch([np.zeros((8, 8, 3), dtype=np.uint8)])
    many, _, _ = predictor.predict_batch(box_batch=[np.array([0, 0, 4, 4])])
    reveal_type(many)  # reveal: list[numpy.ndarray
    reveal_type(predictor.get_image_embedding())  # reveal: torch._tensor.Tensor
    reveal_type(SAM2ImagePredictor.from_pretrained("sam2fast/nano", device="cpu"))  # reveal: SAM2ImagePredictor
    reveal_type(build_sam2_hf("facebook/sam2.1-hiera-tiny"))  # reveal: SAM2Base
    return masks


def everything(photo: Path, model: SAM2Base) -> int:
    generator = SAM2AutomaticMaskGenerator(model, points_per_side=8)
    records = generator.generate(photo)
    reveal_type(records)  # reveal: list[
    reveal_type(generator.generate_batch([photo]))  # reveal: list[list[
    return sum(record["area"] for record in records)


def video(clip: Path) -> Iterator[torch.Tensor]:
    predictor = build_sam2_video_predictor("configs/sam2.1/sam2.1_hiera_t.yaml", None, device="cpu")
    reveal_type(predictor)  # reveal: sam2fast.sam2_video_predictor.SAM2VideoPredictor
    state = predictor.init_state(clip, max_history=32)
    reveal_type(state)  # reveal: sam2fast.compat.video_state.VideoState
    frame, ids, logits = predictor.add_new_points_or_box(state, frame_idx=0, obj_id="dog", points=[[1, 2]], labels=[1])
    reveal_type(frame)  # reveal: int
    reveal_type(logits)  # reveal: torch._tensor.Tensor
    predictor.add_new_mask(state, 0, 2, np.ones((4, 4), dtype=bool))
    for number, _, found in predictor.propagate_in_video(state):
        reveal_type(number)  # reveal: int
        reveal_type(found)  # reveal: torch._tensor.Tensor
        yield found > 0
    for number, _, _, scores in predictor.propagate_in_video(state, return_scores=True):
        reveal_type(number)  # reveal: int
        reveal_type(scores)  # reveal: sam2fast.tracking.outputs.TrackScores
    predictor.remove_object(state, "dog")
    predictor.save_state(state, clip.with_suffix(".state"))
    reveal_type(predictor.load_state(clip.with_suffix(".state"), clip))  # reveal: VideoState
    predictor.reset_state(state)
    reveal_type(build_sam2_video_predictor_hf("sam2fast/nano"))  # reveal: SAM2VideoPredictor


def stream(predictor: SAM2VideoPredictor) -> None:
    with predictor.open_stream() as opened, read_frames(0, predictor.image_size) as camera:
        for frame in camera:
            result = opened.step(frame)
            reveal_type(result.masks)  # reveal: torch._tensor.Tensor
            reveal_type(frame.index)  # reveal: int
            opened.add_new_points_or_box("dog", points=[[210, 350]], labels=[1])
    reveal_type(len(open_frames("clip.mp4", 64)))  # reveal: int


def more(model: SAM2Base, predictor: SAM2VideoPredictor, file: Path) -> None:
    reveal_type(read_checkpoint(file))  # reveal: dict[str, torch._tensor.Tensor]
    report: LoadReport = load_partial(model, file)
    reveal_type(choose_config(file))  # reveal: sam2fast.checkpoints.choosing.Choice
    reveal_type(compile_model(model))  # reveal: sam2fast.modeling.sam2_base.SAM2Base
    uncompile(model)
    with attention_maps(predictor, layers=[0]) as maps:
        reveal_type(maps)  # reveal: list[
    reveal_type(stage_features(model, torch.zeros(1, 3, 64, 64)).stages)  # reveal: list[torch._tensor.Tensor]
    reveal_type(load_predictor(file))  # reveal: sam2fast.sam2_image_predictor.SAM2ImagePredictor
    reveal_type(load_config("sam2.1_hiera_t"))  # reveal: DictConfig
    reveal_type(encode_rle(np.zeros((2, 2), dtype=bool)))  # reveal: RLE
    reveal_type(decode_rle({"size": [2, 2], "counts": "4"}))  # reveal: numpy.ndarray
    reveal_type(sam2fast.__version__)  # reveal: str
    print(report, VideoJob, track_videos)
    try:
        main(["env"])
    except (CheckpointError, ConfigError, ImageError, VideoError) as error:
        print(error)
