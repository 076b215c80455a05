"""Products are counted rightly: against torch's counter on our own model, and on the official one for what it does."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
import torch
import video
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sam2fast.profiling import Limits, Part, costs, profile_video

LIMITS = Limits(1e10, {"float32": 1e11})
FRAMES = 2
PROMPTS = {1: {"points": [[40, 30]], "labels": [1]}, 2: {"points": [[80, 60]], "labels": [1]}}
# Positions of points and of the map, of which torch counts products with two columns.
NEGLIGIBLE = 1e-4

pytestmark = pytest.mark.long


@contextmanager
def counting() -> Iterator[FlopCounterMode]:
    """Torch's counter; its attention for the CPU has no formula there, written out it has."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        yield counter


class Counted(NamedTuple):
    model: Any
    tree: Part
    official: dict[str, int]
    ours: int


def tracked(predictor: Any, clip: Any, before: int) -> FlopCounterMode:
    """The counter after :data:`FRAMES` frames that follow the first one and ``before`` others."""
    predictor.requires_grad_(False)  # what torch's counter hooks to parameters fails in inference mode
    state = predictor.init_state(clip)
    for obj_id, prompt in PROMPTS.items():
        predictor.add_new_points_or_box(state, 0, obj_id, **prompt)
    answers = predictor.propagate_in_video(state)
    for _ in range(1 + before):
        next(answers)
    with counting() as counter:
        for _ in range(FRAMES):
            next(answers)
    return counter


@pytest.fixture(scope="module")
def counted(tmp_path_factory) -> Counted:
    official, ours = video.build_video_pair(image_size=128)
    folder = str(video.jpeg_folder(tmp_path_factory.mktemp("clip"), video.clip(6)))
    profile = profile_video(ours, folder, prompts=PROMPTS, frames=FRAMES, limits=LIMITS)
    before = profile.subject["first_frame"] - 1
    assert before == 3  # memories of different ages, and of the prompted frame
    by_module = tracked(official, folder, before).get_flop_counts()
    by_name = {name: sum(counts.values()) for name, counts in by_module.items()}
    # Modules that are called by themselves go by changing names, as do the heads of the two fine levels.
    with torch.no_grad(), counting() as counter:
        official.forward_image(torch.zeros(1, 3, 128, 128))
    by_name["forward_image"] = counter.get_total_flops() * FRAMES
    return Counted(ours, profile.root, by_name, tracked(ours, folder, before).get_total_flops())


def test_what_we_compute(counted):
    assert counted.tree.flops * FRAMES == pytest.approx(counted.ours, rel=NEGLIGIBLE)


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("encode", "forward_image"),
        ("memory attention", "MemoryAttention"),
        ("mask decoder", "MaskDecoder"),
        ("memory encoding", "MemoryEncoder"),
        ("object pointers", "MLP"),
    ],
)
def test_what_the_original_computes(counted, part, name):
    assert counted.tree[part].published * FRAMES == counted.official[name]


def test_at_full_size(counted):
    """What the documents say of 1024x1024, a click, and a full memory."""
    layer, positions, tokens = counted.model.memory_attention.layers[0], 64 * 64, 7 * 64 * 64 + 64
    published = 4 * costs.published_memory_attention(layer, positions, [tokens])
    saved = costs.memory_attention([tokens], 1, positions, 256, 64, 256) - (
        2 * costs.product(tokens, 64, 256) + costs.attention(positions, tokens, 256)
    )
    assert published / 1e9 == pytest.approx(605.6, abs=0.05)
    assert (published + 4 * saved) / 1e9 == pytest.approx(421.6, abs=0.05)
    assert costs.published_decoder(counted.model.sam_mask_decoder, 1, 8, positions) / 1e9 == pytest.approx(
        3.64, abs=5e-3
    )
