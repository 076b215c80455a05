"""Calls that can be disturbed halfway, and the state before and after them."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from comparable import plain, snapshot
from injected_memory import FAILURES, failing
from mini_model import mini_model, mini_predictor

from sam2fast.automatic_mask_generator import SAM2AutomaticMaskGenerator
from sam2fast.compat.video_state import VideoState
from sam2fast.sam2_image_predictor import SAM2ImagePredictor

HEIGHT, WIDTH = 40, 60


class Disturbed(NamedTuple):
    """A call, the start of its object in the same state each time, and the complete state ``known`` before and after.

    If it ``resumes``, it is a propagation that keeps finished frames and continues there.
    """

    start: Callable[[], Any]
    call: Callable[[Any], Any]
    known: Callable[[Any], Any]
    resumes: bool = False


def make_images(count: int) -> list[np.ndarray]:
    """Noise over a bright square that moves; ``(H, W, 3)`` uint8."""
    rng, found = np.random.default_rng(0), []
    for t in range(count):
        image = rng.integers(0, 80, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        image[10:25, 8 + 3 * t : 28 + 3 * t] += 150
        found.append(image)
    return found


def known_of_image(predictor: SAM2ImagePredictor) -> Any:
    return plain([predictor._features, predictor._orig_hw, predictor._is_batch, predictor._is_image_set])


def known_of_state(state: VideoState) -> Any:
    """All objects, their order, and whether there are pointers."""
    return snapshot(state), list(state.obj_ids), len(state.bank.pointers._owners) > 0


def known_of_stream(stream: Any) -> Any:
    frames = stream._frames
    return known_of_state(stream._state), stream.frame, stream.video_size, plain(frames._square)


@cache
def image_model() -> Any:
    return mini_model()


@cache
def video_predictor(fast: bool = False, approximations: tuple[str, ...] = ()) -> Any:
    predictor = mini_predictor()
    predictor.fast = True if fast else None
    predictor.approximations = list(approximations)
    return predictor


def _image(generator: bool = False) -> Any:
    model = image_model()
    if generator:
        loose = {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "points_per_batch": 3}
        return SAM2AutomaticMaskGenerator(model, points_per_side=2, crop_n_layers=1, **loose)
    return SAM2ImagePredictor(model, max_hole_area=4, max_sprinkle_area=4)


def _with_image(is_batch: bool = False) -> SAM2ImagePredictor:
    predictor = _image()
    if is_batch:
        predictor.set_image_batch(make_images(2))
    else:
        predictor.set_image(make_images(1)[0])
    return predictor


@cache
def _tracked(fast: bool, approximations: tuple[str, ...]) -> Any:
    predictor = video_predictor(fast, approximations)
    state = predictor.init_state(make_images(6))
    predictor.add_new_points_or_box(state, 0, "a", [[15, 18]], [1])
    predictor.add_new_points_or_box(state, 1, "b", box=[30, 5, 55, 35])
    for _ in predictor.propagate_in_video(state, max_frame_num_to_track=2, progress=False):
        pass
    # One more prompt that has no memory yet.
    predictor.add_new_points_or_box(state, 3, "a", [[20, 20]], [1])
    return state


def _state(fast: bool = False, approximations: tuple[str, ...] = ()) -> tuple[Any, VideoState]:
    """Two objects, three frames tracked, a new prompt."""
    predictor = video_predictor(fast, approximations)
    return predictor, predictor.move_state(_tracked(fast, approximations))


def _propagated(session: tuple[Any, VideoState], **more: Any) -> list[Any]:
    predictor, state = session
    answers = predictor.propagate_in_video(state, 2, progress=False, **more)
    return [(frame, list(ids), *rest) for frame, ids, *rest in answers]


@cache
def _saved_stream() -> str:
    file = str(Path(tempfile.mkdtemp()) / "stream.safetensors")
    predictor = video_predictor()
    with predictor.open_stream() as stream:
        for t, image in enumerate(make_images(4)):
            stream.step(image)
            if t == 0:
                stream.add_new_points_or_box("a", [[15, 18]], [1])
            if t == 2:
                stream.add_new_points_or_box("b", box=[30, 5, 55, 35])
        stream.add_new_points_or_box("a", [[20, 20]], [1])
        stream.save(file)
    return file


def _stream() -> Any:
    return video_predictor().restore_stream(_saved_stream())


def _on_state(call: Callable[[Any, VideoState], Any]) -> Disturbed:
    return Disturbed(_state, lambda s: call(*s), lambda s: known_of_state(s[1]))


def _on_image(start: Callable[[], Any], call: Callable[[Any], Any]) -> Disturbed:
    return Disturbed(start, call, known_of_image)


def _on_stream(call: Callable[[Any], Any]) -> Disturbed:
    return Disturbed(_stream, call, known_of_stream)


def _pass(**more: Any) -> Disturbed:
    return Disturbed(
        lambda: _state(**more), lambda s: _propagated(s, return_scores=True), lambda s: known_of_state(s[1]), True
    )


def _remove_all(predictor: Any, state: VideoState) -> Any:
    return [predictor.remove_object(state, obj_id) for obj_id in list(state.objects)[1:]]


def _alone() -> tuple[Any, VideoState]:
    predictor, state = _state()
    predictor.remove_object(state, "b")
    return predictor, state


def _opened(predictor: Any) -> Any:
    state = predictor.init_state(make_images(2))
    return predictor._tracker.encode(state, [0])[0], state.num_frames


MASK = np.zeros((HEIGHT, WIDTH), bool)
MASK[5:20, 10:30] = True

CALLS: dict[str, Disturbed] = {
    "set_image": _on_image(_with_image, lambda p: p.set_image(make_images(3)[2][:30])),
    "set_image_batch": _on_image(_with_image, lambda p: p.set_image_batch(make_images(2))),
    "predict": _on_image(_with_image, lambda p: p.predict([[20, 20]], [1], box=[8, 8, 40, 30])),
    "predict_batch": _on_image(lambda: _with_image(True), lambda p: p.predict_batch([[[20, 20]]] * 2, [[1]] * 2)),
    "generate": Disturbed(
        lambda: _image(True), lambda g: g.generate(make_images(1)[0]), lambda g: known_of_image(g.predictor)
    ),
    "init_state": Disturbed(video_predictor, _opened, lambda p: None),
    "points": _on_state(lambda p, s: p.add_new_points_or_box(s, 3, "c", [[20, 20], [5, 5]], [1, 0])),
    "correction": _on_state(lambda p, s: p.add_new_points_or_box(s, 1, "a", [[20, 20]], [1], clear_old_points=False)),
    "mask": _on_state(lambda p, s: p.add_new_mask(s, 2, "b", MASK)),
    "clear": _on_state(lambda p, s: p.clear_all_prompts_in_frame(s, 0, "a")),
    "remove": _on_state(_remove_all),
    "remove the last": Disturbed(_alone, lambda s: s[0].remove_object(s[1], "a"), lambda s: known_of_state(s[1])),
    "reset": _on_state(lambda p, s: p.reset_state(s)),
    "preflight": _on_state(lambda p, s: p.propagate_in_video_preflight(s)),
    "propagate": _pass(),
    "propagate recorded": _pass(fast=True),
    "propagate approximately": _pass(approximations=("memory_slots", "still_frames")),
    "move_state": _on_state(lambda p, s: p.move_state(s)),
    "step": _on_stream(lambda s: s.step(make_images(5)[4])),
    "stream points": _on_stream(lambda s: s.add_new_points_or_box("c", [[20, 20]], [1])),
    "stream mask": _on_stream(lambda s: s.add_new_mask("a", MASK)),
    "stream clear": _on_stream(lambda s: s.clear_prompts("a")),
    "stream remove": _on_stream(lambda s: s.remove_object("a")),
}


def _comparable(answer: Any) -> Any:
    return known_of_state(answer) if isinstance(answer, VideoState) else plain(answer)


class Undisturbed(NamedTuple):
    """An undisturbed call."""

    before: Any
    answer: Any
    after: Any
    stages: list[Any]  # the state after each frame of a propagation


@cache
def undisturbed(name: str) -> Undisturbed:
    disturbed = CALLS[name]
    session = disturbed.start()
    before = disturbed.known(session)
    answer = _comparable(disturbed.call(session))
    after = disturbed.known(session)
    return Undisturbed(before, answer, after, list(_stages(name)) if disturbed.resumes else [])


def _stages(name: str) -> Iterator[Any]:
    predictor, state = CALLS[name].start()
    predictor.propagate_in_video_preflight(state)
    yield known_of_state(state)
    for _ in predictor.propagate_in_video(state, 2, progress=False):
        yield known_of_state(state)


def places(name: str, kind: str) -> int:
    """At how many places the call can be disturbed."""
    undisturbed(name)  # tables are made when first needed
    session = CALLS[name].start()
    with failing(kind, None) as place:
        CALLS[name].call(session)
    return int(place.count)


def is_mixture(known: Any, stages: Sequence[Any]) -> bool:
    """Whether a state has the same objects in order, and each entry of an attribute is from one of the stages."""

    def facts(state: Any) -> Iterator[tuple[Any, ...]]:
        for obj_id, attributes in state[0]:
            for name, value in attributes:
                is_mapping = isinstance(value, list) and all(isinstance(each, tuple) for each in value)
                yield from ((obj_id, name, each) for each in (value if is_mapping else [value]))

    ever = [fact for stage in stages for fact in facts(stage)]
    objects, obj_ids, _ = known
    same = [obj_id for obj_id, _ in objects] == [obj_id for obj_id, _ in stages[0][0]] and obj_ids == stages[0][1]
    return same and all(fact in ever for fact in facts(known))


class Trial(NamedTuple):
    """A disturbed call of a session, and whether it raised the failure, which code that saves time may suppress."""

    session: Any
    failed: bool


def disturb(name: str, kind: str, at: int) -> Trial:
    """Lets a call fail at one place, and asserts that the state is unchanged and that the call works afterwards."""
    disturbed, right = CALLS[name], undisturbed(name)
    session = disturbed.start()
    failed, wanted = False, FAILURES[kind]()
    with failing(kind, at) as place:
        try:
            disturbed.call(session)
        except (RuntimeError, KeyboardInterrupt) as error:
            if (type(error), str(error)) != (type(wanted), str(wanted)):
                raise
            failed = True
    where = f"{name} disturbed by {kind} at {at} {getattr(place, 'where', '')}"
    known = disturbed.known(session)
    if not failed:  # the failure was suppressed, or the call had finished
        assert known == right.after, f"{where}: it went well, and something else is known"
        return Trial(session, failed)
    if kind == "signal":
        if known == right.after and known != right.before:  # it had finished, and was interrupted while returning
            return Trial(session, failed)
        # Ctrl-C between two objects of a frame: the next pass stores the frame again.
        stages = [right.before, *right.stages, right.after]
        is_whole = is_mixture(known, stages) if disturbed.resumes else known == right.before
    else:
        is_whole = known in [right.before, *right.stages]
    assert is_whole, f"{where}: something is half done"
    assert _comparable(disturbed.call(session)) == right.answer, f"{where}: another answer when it is made again"
    assert disturbed.known(session) == right.after, f"{where}: something else is known afterwards"
    return Trial(session, failed)
