"""Every answer of the video predictor beside the official one's, live: identical tame weights, fp32, on the CPU."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from parity import CHECK_ITSELF, NARROW
from video import SMALL, Scenario, Session, build_video_pair, clip, compare, jpeg_folder, run, run_official

PAIRS: dict[Any, Any] = {}


def pair(
    size: str = "sam2.1_t", overrides: Sequence[str] = (), image_size: int = SMALL, **kwargs: Any
) -> tuple[Any, Any]:
    """Both predictors; the last few configurations are cached."""
    key = (size, tuple(overrides), image_size, *sorted(kwargs.items()))
    if key not in PAIRS:
        while len(PAIRS) >= 4:
            PAIRS.pop(next(iter(PAIRS)))
        PAIRS[key] = build_video_pair(size, overrides, image_size=image_size, **kwargs)
    return PAIRS[key]


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Callable[[int], Path]:
    """A folder of JPEG frames by its length."""
    made: dict[int, Path] = {}

    def get(frames: int) -> Path:
        if frames not in made:
            made[frames] = jpeg_folder(tmp_path_factory.mktemp("video") / str(frames), clip(frames))
        return made[frames]

    return get


def disc(x: int, y: int, radius: int) -> np.ndarray:
    rows, columns = np.mgrid[0:90, 0:120]
    return (columns - x) ** 2 + (rows - y) ** 2 < radius**2


def clicks_and_box(s: Session) -> None:
    s.points(0, 1, (60, 40, 1))
    s.points(0, 1, (30, 20, 0), (70, 50, 1), clear_old_points=False)
    s.points(0, 2, box=[20, 20, 70, 60])
    s.points(0, 2, (40, 40, 1), box=[22, 18, 70, 60])
    s.propagate()


def objects_prompted_on_different_frames(s: Session) -> None:
    s.points(1, "late", (60, 40, 1))
    s.points(3, "later", box=[20, 20, 70, 60])
    s.propagate(start_frame_idx=0)
    s.propagate(start_frame_idx=4, reverse=True)
    s.points(2, "latest", (90, 20, 1))
    s.propagate()


def mask_prompts(s: Session) -> None:
    s.mask(0, 1, disc(60, 40, 20))
    s.points(0, 2, (30, 60, 1))
    halves = np.zeros((512, 512), dtype=bool)
    halves[102:302, 54:206] = True  # after resizing, the pixels at the edges are exactly 0.5
    s.mask(2, 2, torch.from_numpy(halves))
    s.mask(3, 3, np.zeros((90, 120), dtype=bool))  # a missing object
    s.mask(1, 4, torch.ones(256, 256) * 0.7)  # of the model's own size: taken as it is
    s.propagate()


def correction(s: Session) -> None:
    s.points(0, 1, (60, 40, 1))
    s.points(1, 2, (20, 70, 1))
    s.propagate()
    s.points(3, 1, (65, 45, 0))
    s.points(3, 1, (40, 45, 1), clear_old_points=False)
    s.points(0, 2, (25, 75, 1))  # tracked, although before the object's first prompt
    s.propagate()
    s.mask(4, 2, disc(30, 60, 12))
    s.points(0, 1, (50, 30, 1))  # a conditioning frame
    s.propagate(start_frame_idx=2)
    s.propagate(start_frame_idx=4, reverse=True)
    s.points(2, 1, (64, 41, 1))  # goes on backwards
    s.propagate(start_frame_idx=2, reverse=True)


def partial_ranges(s: Session) -> None:
    s.points(2, 1, (60, 40, 1))
    s.propagate(max_frame_num_to_track=1)
    s.propagate(start_frame_idx=2, max_frame_num_to_track=2, reverse=True)
    s.propagate(start_frame_idx=4, max_frame_num_to_track=0)
    s.propagate(start_frame_idx=0, reverse=True)  # nothing
    s.propagate(start_frame_idx=1, max_frame_num_to_track=100)
    s.propagate(start_frame_idx=4, max_frame_num_to_track=100, reverse=True)


def removal_clearing_reset(s: Session) -> None:
    s.points(0, "a", (60, 40, 1))
    s.points(0, "b", box=[20, 20, 70, 60])
    s.points(2, "b", (50, 50, 1))
    s.mask(3, "b", disc(60, 40, 20))
    s.points(1, "c", (20, 70, 1))
    s.remove("b")
    s.points(2, "d", (50, 50, 1))
    s.propagate()
    s.remove("a")
    s.clear(2, "d")
    s.points(2, "d", (55, 55, 1))
    s.clear(1, "c")
    s.points(1, "c", (22, 72, 1))
    s.propagate(start_frame_idx=1)
    s.remove("unknown")
    s.remove("c")
    s.remove("d")
    s.points(1, "e", (60, 40, 1))
    s.propagate()
    s.reset()
    s.points(0, "f", (60, 40, 1))
    s.propagate()


def normalised_coordinates(s: Session) -> None:
    s.points(0, 1, (0.5, 0.4, 1), (0.2, 0.2, 0), normalize_coords=False)
    s.points(1, 2, box=[0.2, 0.2, 0.6, 0.7], normalize_coords=False)
    s.propagate()


def many_frames(s: Session) -> None:
    """More than seven memories and sixteen pointers, in both directions, with conditioning frames in the middle."""
    s.points(3, 1, (60, 40, 1))
    last = s.state["num_frames"] - 1
    s.points(min(12, last - 1), 1, (50, 50, 1))
    s.propagate()
    s.propagate(start_frame_idx=last, reverse=True)


def many_conditioning_frames(s: Session) -> None:
    for frame in (9, 0, 4, 2, 6):
        s.points(frame, 1, (60, 40 + frame, 1))
    s.propagate()
    s.propagate(start_frame_idx=9, reverse=True)


def one_frame(s: Session) -> None:
    s.points(0, 1, (60, 40, 1))
    s.propagate()
    s.propagate(reverse=True)


def model(**values: Any) -> dict[str, Any]:
    """Overrides of the configuration."""
    return {"overrides": tuple(f"++model.{key}={value}" for key, value in values.items())}


POINTERS = ("use_obj_ptrs_in_encoder", "fixed_no_obj_ptr", "pred_obj_scores", "pred_obj_scores_mlp")
CASES: dict[str, tuple[Scenario, int, dict[str, Any]]] = {
    "clicks and box": (clicks_and_box, 5, {}),
    "no postprocessing": (clicks_and_box, 5, {"apply_postprocessing": False}),
    "objects on different frames": (objects_prompted_on_different_frames, 5, {}),
    "objects on different frames, 2.0": (objects_prompted_on_different_frames, 5, {"size": "sam2_t"}),
    "mask prompts": (mask_prompts, 5, {}),
    "correction": (correction, 5, {"seed": 3}),
    "correction that sticks": (correction, 5, model(add_all_frames_to_correct_as_cond="true") | {"seed": 3}),
    "partial ranges": (partial_ranges, 6, {}),
    "removal, clearing, reset": (removal_clearing_reset, 5, {}),
    "normalised coordinates": (normalised_coordinates, 3, {}),
    "no overlaps": (clicks_and_box, 4, model(non_overlap_masks="true")),
    "many frames": (many_frames, 18, {}),
    "many frames, 2.0": (many_frames, 14, {"size": "sam2_t"}),
    "limited conditioning frames": (many_conditioning_frames, 10, model(max_cond_frames_in_attn=3)),
    "strides, unsigned, all pointers": (
        many_frames,
        14,
        model(
            memory_temporal_stride_for_eval=2,
            use_signed_tpos_enc_to_obj_ptrs="false",
            only_obj_ptrs_in_the_past_for_eval="false",
        ),
    ),
    "few memories and pointers": (many_frames, 8, model(num_maskmem=3, max_obj_ptrs_in_encoder=4)),
    "no pointers": (clicks_and_box, 4, model(**dict.fromkeys(POINTERS, "false")) | {"seed": 1}),
    "no memories": (clicks_and_box, 3, model(num_maskmem=0)),
    "one frame": (one_frame, 1, {}),
    "256": (objects_prompted_on_different_frames, 6, {"image_size": 256}),
    "512": (clicks_and_box, 3, {"image_size": 512}),
    "512, 2.0": (normalised_coordinates, 3, {"image_size": 512, "size": "sam2_t", "seed": 1}),
}


# These cases are compared on the published architecture, and the others on the narrow one.
PUBLISHED = ("clicks and box", "many frames, 2.0")
LARGER = ("256", "512", "512, 2.0")


def pair_of(name):
    kind = CASES[name][2]
    return pair(**kind if name in PUBLISHED else kind | {"overrides": (*kind.get("overrides", ()), *NARROW)})


@pytest.mark.parametrize("name", [name for name in CASES if name not in (*PUBLISHED, *LARGER)])
def test_parity(name, videos):
    """Compares the narrow architecture."""
    assert_parity(name, videos)


@pytest.mark.parametrize("name", ["256", "512, 2.0"])
def test_parity_of_larger_images(name, videos):
    assert_parity(name, videos)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parity_of_the_published_architecture(name, videos):
    assert_parity(name, videos)


def assert_parity(name, videos):
    scenario, frames, _ = CASES[name]
    official, ours = pair_of(name)
    video = videos(frames)
    compare(run_official(official, video, scenario, check_itself=False), run(ours, video, scenario))


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_cases_are_tame(name, videos):
    """Tests that the official model agrees with itself, within a third of the tolerance, to explain failures above."""
    run_official(pair_of(name)[0], videos(CASES[name][1]), CASES[name][0])


@pytest.mark.slow
@pytest.mark.parametrize(("scenario", "frames", "kind"), CASES.values(), ids=CASES.keys())
def test_parity_on_larger_maps(scenario, frames, kind, videos):
    """Every case on the published architecture, with 16 by 16 positions where there are not more already."""
    kind = {"image_size": 256, **kind}
    official, ours = pair(**kind)
    compare(run_official(official, videos(frames), scenario), run(ours, videos(frames), scenario))


@pytest.mark.slow
@pytest.mark.parametrize("size", ["sam2.1_t", "sam2.1_b+"])
def test_parity_at_1024(size, videos):
    official, ours = build_video_pair(size, image_size=1024)

    def scenario(s: Session) -> None:
        s.points(0, 1, (60, 40, 1), (30, 20, 0))
        s.points(1, 2, box=[20, 20, 70, 60])
        s.propagate(max_frame_num_to_track=4)

    compare(run_official(official, videos(9), scenario), run(ours, videos(9), scenario))


@contextlib.contextmanager
def presence_sharpened(predictors: Sequence[Any], centre: float, factor: float) -> Iterator[None]:
    """Scores of random models hardly differ, so scores on one side of ``centre`` are set to clearly absent."""
    layers = [p.sam_mask_decoder.pred_obj_score_head.layers[2] for p in predictors]
    kept = [(layer.weight.clone(), layer.bias.clone()) for layer in layers]
    with torch.no_grad():
        for layer in layers:
            layer.bias.sub_(centre).mul_(factor)
            layer.weight.mul_(factor)
    yield
    with torch.no_grad():
        for layer, (weight, bias) in zip(layers, kept, strict=True):
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)


def vanishing(s: Session) -> None:
    s.points(0, 1, (60, 40, 1))
    s.points(0, 2, (20, 70, 1), (80, 20, 0))
    s.mask(0, 3, np.zeros((90, 120), dtype=bool))
    s.mask(0, 4, disc(60, 40, 20))
    s.propagate()


@CHECK_ITSELF
@pytest.mark.parametrize(
    ("size", "overrides", "image_size", "centre", "factor"),
    [
        ("sam2.1_t", NARROW, SMALL, 2.965, 100),
        ("sam2_t", NARROW, SMALL, 2.9705, -100),
        pytest.param("sam2.1_t", (), 256, 2.895, -100, marks=pytest.mark.slow),
        pytest.param("sam2_t", (), 256, 2.8895, 100, marks=pytest.mark.slow),
    ],
    ids=["narrow, 2.1", "narrow, 2.0", "2.1", "2.0"],
)
def test_objects_that_vanish(size, overrides, image_size, centre, factor, videos, check_itself):
    official, ours = pair(size, overrides, image_size)
    with presence_sharpened((official, ours), centre, factor):
        expected = run_official(official, videos(9), vanishing, check_itself=check_itself)
        absent = [[bool((m == -1024).all()) for m in r.masks] for r in expected if r.step.startswith("propagate")]
        came_and_went = sum(0 < sum(frames) < len(frames) for frames in zip(*absent[1:], strict=True))
        assert came_and_went >= 2, absent
        compare(expected, run(ours, videos(9), vanishing))


def test_holes_are_filled(videos):
    """The scenario has holes, so that parity with postprocessing shows that they are filled."""
    _, ours = pair(overrides=NARROW)
    filled = run(ours, videos(5), clicks_and_box)
    ours.fill_hole_area, area = 0, ours.fill_hole_area
    try:
        plain = run(ours, videos(5), clicks_and_box)
    finally:
        ours.fill_hole_area = area
    assert area == 8
    assert not torch.equal(filled[0].masks, plain[0].masks)
