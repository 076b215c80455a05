"""Sessions of the video predictor: frames of a video in which seven memories are full, and of a stream.

One object is tracked through the first frames. The others then get copies of its results in the predictor's state, and
where more history is asked for than was tracked, results are repeated in it: filling it by tracking would take minutes.
"""

import collections
import contextlib
import itertools
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from sam2fast.video_io import opening
from sam2fast.video_io.sources import Source
from suite.missing import MissingError
from suite.photographs import Repeated, centre, video, write_video
from suite.sessions import PredictorSession, Sample, in_context
from suite.subjects import Built, Setting, TrackingPath, is_ours, video_predictor

FULL = 7  # frames of which the next one attends to all
POINTERS = 16  # frames after which as many object pointers are attended to as ever
FRAMES = 24
LENGTH = 100_000
# Masks whose predicted IoUs are so close may change places in bfloat16: on these inputs, nano's and tiny's are up to
# 0.004 from those in fp32.
TIED = 0.01
MEASURED_TOGETHER = 96  # whole batches, also of the 8 frames that may be encoded at once
PREFILLED = "one object is tracked for 7 frames, the others get copies of its memories, and older frames are repeated"


def holes_left(predictor: Any) -> contextlib.AbstractContextManager[Any]:
    """Inside, holes in masks stay as they are, which nothing else depends on.

    A hole near the size up to which they are filled is filled in one dtype and left in another: one pixel is then as
    far off as a whole mask.
    """
    return mock.patch.object(predictor, "fill_hole_area", 0)


class Candidates:
    """Keeps the masks among which a predictor's decoder has chosen one by their predicted IoUs, until it closes."""

    def __init__(self, built: Built) -> None:
        decoder = built.predictor.sam_mask_decoder
        forward = decoder.forward

        def kept(*args: Any, **kwargs: Any) -> Any:
            answer = forward(*args, **kwargs)
            self.masks, self.ious = answer[0].float(), answer[1].float()
            return answer

        built.closing.enter_context(mock.patch.object(decoder, "forward", kept))

    def tied(self, side: int) -> list[Tensor]:
        """Masks ``(1, 1, side, side)`` of the latest call with nearly the IoU of the chosen one."""
        best = int(self.ious[0].argmax())
        others = [i for i, iou in enumerate(self.ious[0]) if i != best and self.ious[0, best] - iou <= TIED]
        masks = [self.masks[:1, i : i + 1] for i in others]
        return [F.interpolate(x, (side, side), mode="bilinear", align_corners=False).cpu() for x in masks]


class Tracking(PredictorSession):
    """A session of the video predictor."""

    def __init__(self, subject: str, setting: Setting) -> None:
        super().__init__(video_predictor(subject, setting))
        self.tracking_path = TrackingPath(subject, self.built.predictor)
        self.warmed: dict[int, float] = {}

    @property
    def path(self) -> str:
        return self.tracking_path.name

    def warm_up(self, objects: int) -> float | None:
        """Warms a subject up for ``objects`` objects, and returns the seconds of its compilation."""
        side, predictor = self.built.setting.image_size, self.built.predictor
        if self.tracking_path.subject != "sam2fast fast":
            return self.built.compile_s
        if objects not in self.warmed:
            warm = in_context(self.built, lambda: predictor.warmup(num_objects=objects, size=(side, side)))
            self.warmed[objects] = warm.seconds
        return self.warmed[objects]


class FirstFrames(Tracking):
    """One object on the prompted frame and those after it; what videos in bfloat16 are judged by.

    Args:
        alternatives: keep those, and predicted IoUs. Nothing is recorded then.

    Attributes:
        checked: masks ``(1, 1, S, S)`` of the prompted frame and of the first that was tracked, without filled holes.
        alternatives: for each of them, what might have been chosen as well; see :data:`TIED`.
        ious: for each of them, the IoUs that the decoder predicts for its masks.
        fill_s: seconds of each frame tracked.
    """

    def __init__(self, subject: str, setting: Setting, frames: int = 2, alternatives: bool = False) -> None:
        super().__init__(subject, setting)
        self.tracked = OurVideo(self.built) if is_ours(subject) else OfficialVideo(self.built)
        self.built.closing.callback(lambda: self.passes.close())
        self.warm_up(1)
        side = setting.image_size
        x, y = centre(side, side, 0)
        if alternatives:
            if is_ours(subject):
                self.built.closing.enter_context(mock.patch.object(self.built.predictor, "fast", False))
            candidates = Candidates(self.built)
        self.alternatives: list[list[Tensor]] = []
        self.ious: list[list[float]] = []

        def look() -> None:
            if alternatives:
                self.alternatives.append(candidates.tied(side))
                self.ious.append(candidates.ious[0].tolist())

        with holes_left(self.built.predictor):
            with self.built.context():
                answer = self.built.predictor.add_new_points_or_box(self.tracked.state, 0, 0, [[x, y]], [1])
            look()
            self.passes = self.tracked.passes(0)
            samples = [self._next() for _ in range(2)]
            look()
            samples += [self._next() for _ in range(frames - 2)]
        self.checked = [found[2].float().cpu() for found in (answer, samples[1].result)]
        self.fill_s = [sample.seconds for sample in samples]

    @property
    def encoded(self) -> int:
        return int(self.tracked.state.features.encoded)  # of ours

    def scores(self) -> list[list[float]]:
        """Returns those of the prompted frame and of the first that was tracked, by a session of its own."""
        setting = replace(self.built.setting, objects=None, history=None, frames=None)
        with contextlib.closing(FirstFrames(self.tracking_path.subject, setting, alternatives=True)) as first:
            return first.ious

    def _next(self) -> Sample:
        return in_context(self.built, lambda: next(self.passes))


class Steady(FirstFrames):
    """Frame after frame of ``propagate_in_video``."""

    def __init__(self, subject: str, setting: Setting) -> None:
        super().__init__(subject, setting, FULL)
        self.tracked.remember()
        self.next_frame = FULL

    def prepare(self, setting: Setting) -> None:
        """Goes on at a frame that was never seen, with the setting's objects and at least its history."""
        objects, start = setting.objects or 1, max(self.next_frame, setting.history or 0)
        self.compile_s = self.warm_up(objects)
        self.tracked.refill(objects, start)
        self.passes = self.tracked.passes(start)
        self.next_frame = start
        self.earlier_s, self.fill_s = self.fill_s, []  # what was compiled while filling counts once
        self.notes = [*self.built.notes, f"{start} frames before the first"]
        self.tracking_path.forget()

    def call(self) -> Sample:
        self.next_frame += 1
        sample = self._next()
        self.tracking_path.look(self.tracked.bank)
        sample.result = [sample.result[2].float()]
        return sample


class Throughput(Steady):
    """Many frames of ``propagate_in_video`` without waiting for the device between them; seconds are of one frame."""

    frames = MEASURED_TOGETHER

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        self.frames = setting.frames or MEASURED_TOGETHER
        # One by one, until nothing new is recorded or compiled: what takes minutes shows as the seconds of one frame.
        before = min(POINTERS - FULL, self.frames)
        self.earlier_s = [*self.earlier_s, *(self._next().seconds for _ in range(before))]
        self.next_frame += before
        self.notes = [*self.built.notes, f"{self.next_frame} frames before the first"]
        self.notes.append(f"{self.frames} frames between two synchronisations")
        self.waiting = True

    def call(self) -> Sample:
        if self.waiting:  # the first call is not among the samples
            self.waiting = False
            return super().call()
        self.next_frame += self.frames

        # Only the last frame's masks are kept.
        frames = itertools.islice(self.passes, self.frames)
        sample = in_context(self.built, lambda: collections.deque(frames, maxlen=1).pop())
        self.tracking_path.look(self.tracked.bank)
        assert sample.host_s is not None
        return Sample(sample.seconds / self.frames, [sample.result[2].float()], sample.host_s / self.frames)


class LoadedFrames(Source):
    """Frames in memory, over and over, as the official package has them after it has read its files."""

    def __init__(self, images: Sequence[NDArray[np.uint8]]) -> None:
        self.height, self.width = images[0].shape[:2]
        self._pixels = [torch.tensor(image) for image in images]

    def __len__(self) -> int:
        return LENGTH

    def read(self, index: int, since: int) -> list[tuple[int, Tensor]]:
        return [(index, self._pixels[index % len(self._pixels)])]


class OurVideo:
    """Holds a state of our predictor, and fills it."""

    def __init__(self, built: Built) -> None:
        self.predictor, self.encode_ahead = built.predictor, built.setting.encode_ahead
        # A GPU would wait for frames that are decoded in turn with it.
        ahead = built.setting.device.startswith("cuda")
        frames = LoadedFrames(video(built.setting.image_size, FRAMES))
        with built.context(), mock.patch.object(opening, "_open", lambda *given: frames):
            self.state = self.predictor.init_state(frames, async_loading_frames=ahead)
        self.bank = self.state.bank
        self.first: Any = None

    def passes(self, start: int) -> Iterator[Any]:
        return self.predictor.propagate_in_video(
            self.state, start_frame_idx=start, progress=False, encode_ahead=self.encode_ahead
        )

    def remember(self) -> None:
        """Keeps the results of the one object, which :meth:`refill` copies."""
        (tracked,) = self.state.objects.values()
        self.first = tracked.copy()

    def refill(self, objects: int, frames: int) -> None:
        """Gives the state ``objects`` objects with results on ``frames`` frames."""
        for obj_id in list(self.state.objects):
            self.state.remove(obj_id)
        recent = list(self.first.tracked.values())
        for obj_id in range(objects):
            copy = self.first.copy()
            for frame in range(FULL, frames):
                copy.tracked[frame] = recent[frame % len(recent)]
                copy.reverse[frame] = False
            self.state.add(obj_id, copy)


class OfficialVideo:
    """Holds a state of the official predictor, and fills it."""

    bank = None  # of memories, which ours has
    DICTIONARIES = ("point_inputs_per_obj", "mask_inputs_per_obj", "frames_tracked_per_obj")

    def __init__(self, built: Built) -> None:
        self.predictor = built.predictor
        with tempfile.TemporaryDirectory() as folder, built.context():
            write_video(Path(folder), built.setting.image_size, FRAMES)
            self.state = self.predictor.init_state(folder)
        self.state["images"], self.state["num_frames"] = Repeated(self.state["images"], LENGTH), LENGTH
        self.first: dict[str, Any] = {}

    def passes(self, start: int) -> Iterator[Any]:
        return self.predictor.propagate_in_video(self.state, start_frame_idx=start)

    def remember(self) -> None:
        self.first = {name: dict(self.state[name][0]) for name in self.DICTIONARIES}
        self.first |= {name: dict(results) for name, results in self.state["output_dict_per_obj"][0].items()}

    def refill(self, objects: int, frames: int) -> None:
        self.predictor.reset_state(self.state)
        recent = list(self.first["non_cond_frame_outputs"].values())
        for obj_id in range(objects):
            index = self.predictor._obj_id_to_idx(self.state, obj_id)
            for name in self.DICTIONARIES:
                self.state[name][index] = dict(self.first[name])
            results = {name: dict(self.first[name]) for name in ("cond_frame_outputs", "non_cond_frame_outputs")}
            for frame in range(FULL, frames):
                results["non_cond_frame_outputs"][frame] = recent[frame % len(recent)]
                self.state["frames_tracked_per_obj"][index][frame] = {"reverse": False}
            self.state["output_dict_per_obj"][index] = results


class Stream(Tracking):
    """``step`` of a stream of ``setting.objects`` objects with full memories."""

    def __init__(self, subject: str, setting: Setting) -> None:
        if not is_ours(subject):
            raise MissingError("it has no streams")
        super().__init__(subject, setting)
        self.opened = contextlib.ExitStack()
        self.frames = video(setting.image_size, FRAMES)

    def prepare(self, setting: Setting) -> None:
        side, objects = setting.image_size, setting.objects or 1
        self.compile_s = self.warm_up(objects)
        self.opened.close()
        self.stream = self.opened.enter_context(self.built.predictor.open_stream())
        self._step()
        with holes_left(self.built.predictor):
            for i in range(objects):
                with self.built.context():
                    answer = self.stream.add_new_points_or_box(i, points=[centre(side, side, i)], labels=[1])
            samples = [self._step() for _ in range(FULL)]
        # The first object's, on the frames that FirstFrames has.
        self.checked = [found.masks[:1].float().cpu() for found in (answer, samples[0].result)]
        self.earlier_s = [sample.seconds for sample in samples]
        self.tracking_path.forget()

    def call(self) -> Sample:
        sample = self._step()
        self.tracking_path.look(self.stream._opened().bank)
        masks: Tensor = sample.result.masks
        sample.result = [masks.float()]
        return sample

    def close(self) -> None:
        self.opened.close()
        super().close()

    def _step(self) -> Sample:
        at = 0 if getattr(self, "stream", None) is None or self.stream.frame is None else self.stream.frame + 1
        return in_context(self.built, lambda: self.stream.step(self.frames[at % FRAMES]))
