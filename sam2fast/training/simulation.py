"""Which frames of a clip are prompted and corrected, and by what."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


@dataclass(frozen=True)
class PromptSettings:
    """How prompts are simulated; the names are the original's without their ``_for_train`` or ``_for_eval``."""

    prob_to_use_pt_input: float = 0.0
    prob_to_use_box_input: float = 0.0
    num_frames_to_correct: int = 1
    rand_frames_to_correct: bool = False
    num_init_cond_frames: int = 1
    rand_init_cond_frames: bool = False

    def __post_init__(self) -> None:
        if self.num_init_cond_frames < 1:
            raise ValueError(f"num_init_cond_frames must be at least 1, got {self.num_init_cond_frames}")
        if self.prob_to_use_pt_input > 0 and self.num_frames_to_correct < self.num_init_cond_frames:
            raise ValueError(
                f"num_frames_to_correct ({self.num_frames_to_correct}) must not be less than num_init_cond_frames "
                f"({self.num_init_cond_frames}) where points are used"
            )


class PromptPlan(NamedTuple):
    """What is prompted in one batch; the same for all its clips."""

    use_points: bool  # else the initial frames get their true masks
    initial: list[int]  # frames prompted before the clip is tracked, frame 0 first
    boxes: list[bool]  # of the initial frames, which get a box instead of a click
    corrected: list[int]  # frames that get more clicks where their masks are wrong

    def order(self, num_frames: int) -> list[int]:
        """The frames in the order they are processed: the initial ones, then the others."""
        return [*self.initial, *(t for t in range(num_frames) if t not in self.initial)]


def plan_prompts(num_frames: int, settings: PromptSettings, rng: np.random.Generator) -> PromptPlan:
    """Draws a plan for clips of ``num_frames``; a single picture always gets a click or a box, and corrections.

    Raises:
        ValueError: the clip is shorter than the number of frames to prompt.

    Source: ``training.model.sam2.SAM2Train.prepare_prompt_inputs``; the draws come in the same order.
    """
    prob_points, corrected_count = settings.prob_to_use_pt_input, settings.num_frames_to_correct
    initial_count = settings.num_init_cond_frames
    if num_frames == 1:
        prob_points, corrected_count, initial_count = 1.0, 1, 1
    if initial_count > num_frames or (prob_points > 0 and corrected_count > num_frames):
        raise ValueError(
            f"clips of {num_frames} frames cannot have {initial_count} initial and {corrected_count} corrected frames"
        )

    use_points = bool(rng.random() < prob_points)
    if settings.rand_init_cond_frames and initial_count > 1:
        initial_count = int(rng.integers(1, initial_count, endpoint=True))
    if use_points and settings.rand_frames_to_correct and corrected_count > initial_count:
        corrected_count = int(rng.integers(initial_count, corrected_count, endpoint=True))

    initial = [0]
    if initial_count > 1:
        initial += rng.choice(range(1, num_frames), initial_count - 1, replace=False).tolist()
    boxes = [bool(rng.random() < settings.prob_to_use_box_input) if use_points else False for _ in initial]

    corrected = list(initial) if use_points else []
    if use_points and corrected_count > initial_count:
        others = [t for t in range(num_frames) if t not in initial]
        corrected += rng.choice(others, corrected_count - initial_count, replace=False).tolist()
    return PromptPlan(use_points, initial, boxes, corrected)
