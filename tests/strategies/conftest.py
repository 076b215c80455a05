"""nano's architecture and the clip of the recordings, with our predictor and the official one."""

from typing import Any, NamedTuple

import oracle  # noqa: F401  (makes the official package importable)
import pytest
import sam2.build_sam
from strategy_recordings import NANO, strategy_clip, write_frames

from sam2fast.build_sam import build_sam2_video_predictor

CONFIG = "configs/sam2.1/sam2.1_hiera_t.yaml"


@pytest.fixture(scope="session")
def frames(tmp_path_factory):
    return write_frames(tmp_path_factory.mktemp("frames"), strategy_clip())


@pytest.fixture(scope="session")
def official():
    return sam2.build_sam.build_sam2_video_predictor(CONFIG, None, device="cpu", hydra_overrides_extra=NANO)


@pytest.fixture(scope="session")
def predictor():
    """Weights are a recipe's: ``recipe.weights(predictor)``."""
    return build_sam2_video_predictor(CONFIG, None, device="cpu", hydra_overrides_extra=NANO)


class Tracked(NamedTuple):
    """What a predictor did with objects on the frames of a pass."""

    logits: dict[int, Any]  # (objects, 1, h, w) by frame, as they are shown
    attended: dict[tuple[int, int], Any]  # Selection by frame and object
    results: list[Any]  # of each object, by frame
    session: Any


@pytest.fixture
def track(predictor, frames, monkeypatch):
    """Tracks prompted objects with a strategy through the first frames of the clip."""

    def run(strategy, prompts, count, fast=None, session=None, **kwargs):
        attended = {}

        def watch(state, objects, frame, reverse, selections):
            places = {id(o): obj for obj, o in enumerate(state.objects.values())}
            given = zip(objects, selections, strict=True)  # also of other hypotheses than the best
            attended.update({(frame, places[id(o)]): one for o, one in given if id(o) in places})

        monkeypatch.setattr(predictor, "selection_watch", watch)
        monkeypatch.setattr(predictor, "fast", fast)
        state = predictor.init_state(str(frames), strategy=strategy) if session is None else session
        for obj, prompt in enumerate(prompts):
            add = predictor.add_new_mask if "mask" in prompt else predictor.add_new_points_or_box
            add(state, 0, obj, **prompt)
        passed = predictor.propagate_in_video(
            state, max_frame_num_to_track=count - 1, output="low_res", progress=False, **kwargs
        )
        logits = {t: masks.clone() for t, _, masks in passed}
        return Tracked(logits, attended, [{**o.conditioning, **o.tracked} for o in state.objects.values()], state)

    return run
