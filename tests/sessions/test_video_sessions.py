"""Random calls on a video state, beside a model of what it knows, a restored copy and a session that repeats it."""

import functools
import os
import sys
import tempfile
from collections.abc import Hashable
from typing import Any

import pytest
import torch
from comparable import snapshot
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis_profiles import examples
from mini_model import mini_predictor
from session_model import PassModel, SessionModel, assert_consistent, assert_facts
from session_player import HEIGHT, IDS, WIDTH, Answer, Player, boxes, click_lists, disc, discs, shown
from video import clip
from wrong_video_calls import WRONG_CALLS

LONGEST = 8
SIDE = 64
# A short reach, so that it, and what max_history forgets, ends within so few frames.
SHORT = ("++model.num_maskmem=3", "++model.max_obj_ptrs_in_encoder=4")
REACH = 3

Entry = tuple[str, tuple[Any, ...]]
ids, frames = st.sampled_from(IDS), st.integers(0, LONGEST - 1)


@functools.cache
def predictor() -> Any:
    return mini_predictor((f"++model.image_size={SIDE}", *SHORT))


@functools.cache
def video_frames() -> list[Any]:
    return clip(LONGEST, HEIGHT, WIDTH)


class VideoSessions(RuleBasedStateMachine):
    """Every rule is one call. It is made on the state, on its copy if there is one, and kept to be repeated."""

    @initialize(
        num_frames=st.integers(4, LONGEST),
        sticks=st.booleans(),
        clears=st.booleans(),
        non_overlapping=st.booleans(),
        max_history=st.sampled_from((None, REACH, REACH + 1)),
        fill_hole_area=st.sampled_from((0, 8)),
        fast=st.sampled_from((None, None, True)),
        approximations=st.sampled_from(((), (), ("memory_slots=2",), ("still_frames",))),
        prompted=st.lists(st.tuples(frames, ids, click_lists), min_size=1, max_size=3),
    )
    def open(
        self,
        num_frames: int,
        sticks: bool,
        clears: bool,
        non_overlapping: bool,
        max_history: int | None,
        fill_hole_area: int,
        fast: bool | None,
        approximations: tuple[str, ...],
        prompted: list[Any],
    ) -> None:
        p = self.predictor = predictor()
        p.add_all_frames_to_correct_as_cond, p.clear_non_cond_mem_around_input = sticks, clears
        p.non_overlap_masks, p.fill_hole_area, p.fast = non_overlapping, fill_hole_area, fast
        p.approximations = approximations
        self.frames = video_frames()[:num_frames]
        self.max_history = max_history
        self.model = SessionModel(num_frames, sticks, p._tracker.clearing_distance if clears else None, max_history)
        self.player, self.copy = self.opened(), None
        self.passes: dict[int, PassModel] = {}
        self.options: dict[int, dict[str, Any]] = {}
        self.log: list[Entry] = []
        self.number = 0
        for frame, obj_id, clicks in prompted:
            self.points(frame, obj_id, clicks, False)

    def opened(self) -> Player:
        return Player(self.predictor, self.predictor.init_state(self.frames, max_history=self.max_history))

    @rule(frame=frames, obj_id=ids, clicks=click_lists, joins=st.booleans())
    def points(self, frame: int, obj_id: Hashable, clicks: Any, joins: bool) -> None:
        self.prompt("points", frame, obj_id, len(clicks), joins, clicks, None, joins)

    @rule(frame=frames, obj_id=ids, box=boxes, clicks=st.none() | click_lists)
    def box(self, frame: int, obj_id: Hashable, box: Any, clicks: Any) -> None:
        self.prompt("points", frame, obj_id, 2 + len(clicks or ()), False, clicks, box, False)

    @rule(frame=frames, obj_id=ids, where=discs, is_empty=st.sampled_from((False, False, False, True)))
    def mask(self, frame: int, obj_id: Hashable, where: Any, is_empty: bool) -> None:
        self.prompt("mask", frame, obj_id, None, False, disc(*where) & (not is_empty))

    def prompt(
        self, method: str, frame: int, obj_id: Hashable, points: int | None, joining: bool, *details: Any
    ) -> None:
        frame %= len(self.frames)
        answers = self.call(method, frame, obj_id, *details)
        conditioning = self.model.prompt(frame, obj_id, points, joining)
        self.check_answer(answers[0], frame, conditioning)

    @rule(data=st.data(), need_output=st.booleans())
    def clear(self, data: st.DataObject, need_output: bool) -> None:
        """Mostly where there is something to take back."""
        places = [(t, i) for i, known in self.model.objects.items() for t in (*known.points, *sorted(known.masks))]
        frame, obj_id = data.draw(st.sampled_from([*places, (0, "a")]))
        answers = self.call("clear", frame, obj_id, need_output)
        self.model.clear(frame, obj_id)
        for answer in answers:
            self.check_answer(answer, frame, self.model.shows_new_conditioning(frame))

    @rule(obj_id=ids, need_output=st.booleans())
    def remove(self, obj_id: Hashable, need_output: bool) -> None:
        answers = self.call("remove", obj_id, need_output)
        was_known, updated = obj_id in self.model.objects, self.model.remove(obj_id)
        assert [answer.frame for answer in answers] == (updated if need_output else [])
        for answer in answers:
            self.check_answer(answer, answer.frame, self.model.shows_new_conditioning(answer.frame))
        if was_known and not self.model.objects:
            self.forget()

    @rule(is_meant=st.sampled_from((False, False, True)))
    def reset(self, is_meant: bool) -> None:
        if not is_meant:
            return
        self.call("reset")
        self.model.objects.clear()
        self.forget()

    def forget(self) -> None:
        """After a reset there is nothing to repeat, and passes end."""
        for number in list(self.passes):
            while number in self.passes:
                self.step("next", number)
        self.log.clear()

    def check_answer(self, answer: Answer, frame: int, conditioning: bool) -> None:
        """An answer is what is stored, of all objects, with nothing where nothing is known."""
        assert (answer.frame, answer.ids) == (frame, self.model.ids)
        (masks,) = answer.tensors
        assert masks.dtype == torch.float32 and masks.shape == (len(answer.ids), 1, HEIGHT, WIDTH)
        results = self.player.answered(frame, conditioning)
        expected = [known.has_result(frame, conditioning) for known in self.model.objects.values()]
        assert [result is not None for result in results] == expected
        assert torch.equal(masks, shown(results, self.predictor.non_overlap_masks))

    @precondition(lambda self: self.model.objects)
    @rule(
        start=st.none() | st.integers(0, LONGEST),
        count=st.none() | st.integers(0, LONGEST + 1),
        reverse=st.booleans(),
        lag=st.sampled_from((0, 0, 1, 2)),
        output=st.sampled_from(("logits", "logits", "bool", "bits", "low_res")),
        return_scores=st.booleans(),
        taken=st.sampled_from((1, 2, 3, 99, 99, 99)),
    )
    def propagate(
        self,
        start: int | None,
        count: int | None,
        reverse: bool,
        lag: int,
        output: str,
        return_scores: bool,
        taken: int,
    ) -> None:
        """Begins a pass and takes some of its frames; what is left can be taken later, or never."""
        if start is not None:
            start = min(start, len(self.frames))
        options = {
            "start_frame_idx": start, "max_frame_num_to_track": count, "reverse": reverse, "lag": lag,
            "output": output, "return_scores": return_scores,
        }  # fmt: skip
        if not self.model.can_be_tracked():
            self.refused(lambda player: player.begin(-1, options), RuntimeError, "no points, box or mask to track it")
            return
        self.passes[self.number] = PassModel(self.model, start, count, reverse, lag)
        number, self.number = self.number, self.number + 1
        self.options[number] = options
        self.step("begin", number, options)
        while number in self.passes and taken > 1:
            taken -= 1
            self.step("next", number)

    @precondition(lambda self: self.passes)
    @rule(data=st.data(), taken=st.integers(1, 3))
    def go_on(self, data: st.DataObject, taken: int) -> None:
        number = data.draw(st.sampled_from(sorted(self.passes)))
        while number in self.passes and taken:
            taken -= 1
            self.step("next", number)

    @precondition(lambda self: self.passes)
    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.passes)))
        self.call("abandon", number)
        del self.passes[number]

    def step(self, method: str, number: int, *options: Any) -> None:
        """The next frame of a pass, or its end."""
        under_way = self.passes[number]
        try:
            expected = under_way.next()
        except RuntimeError:
            self.call(method, number, *options, error=RuntimeError)
            del self.passes[number]
            return
        answers = self.call(method, number, *options)
        if expected is None:
            assert answers == []
            del self.passes[number]
            return
        (answer,) = answers
        assert (answer.frame, answer.ids) == expected
        self.check_form(answer, self.options[number])

    def check_form(self, answer: Answer, options: dict[str, Any]) -> None:
        count, (masks, *scores) = len(answer.ids), answer.tensors
        form = {
            "logits": (torch.float32, (HEIGHT, WIDTH)),
            "bool": (torch.bool, (HEIGHT, WIDTH)),
            "bits": (torch.uint8, (HEIGHT, -(-WIDTH // 8))),
            "low_res": (torch.float32, (SIDE // 4, SIDE // 4)),
        }[options["output"]]
        assert (masks.dtype, masks.shape) == (form[0], (count, 1, *form[1]))
        if options["return_scores"]:
            assert [x.shape for x in scores] == [(count,), (count,), (count, 1, SIDE // 4, SIDE // 4)]
            assert scores[0].min() >= 0 and scores[0].max() <= 1
        if options["lag"] == 0 and options["output"] == "logits":
            results = self.player.kept(answer.frame, answer.ids)
            assert torch.equal(masks, shown(results, self.predictor.non_overlap_masks))

    @rule(name=st.sampled_from(sorted(WRONG_CALLS)))
    def wrong(self, name: str) -> None:
        call, error, message = WRONG_CALLS[name]
        self.refused(lambda player: call(player.predictor, player.state), error, message)

    def refused(self, call: Any, error: type[Exception], message: str) -> None:
        for player in filter(None, (self.player, self.copy)):
            before = snapshot(player.state)
            with pytest.raises(error) as caught:
                call(player)
            assert message in str(caught.value)
            assert snapshot(player.state) == before

    @rule(by_file=st.booleans())
    def go_on_with_a_copy(self, by_file: bool) -> None:
        """From here on there are two; a copy of before is the one that goes on."""
        for number in list(self.passes):
            self.call("abandon", number)
            del self.passes[number]
        if self.copy is not None:
            self.player = self.copy
        self.copy = Player(self.predictor, self.copied(by_file))

    def copied(self, by_file: bool) -> Any:
        if not by_file:
            return self.predictor.move_state(self.player.state)
        with tempfile.TemporaryDirectory() as folder:
            file = os.path.join(folder, "state")
            self.predictor.save_state(self.player.state, file)
            assert os.listdir(folder) == ["state"]
            return self.predictor.load_state(file, self.frames)

    def call(self, method: str, *args: Any, error: type[Exception] | None = None) -> list[Answer]:
        """Makes a call on both sessions, which must answer the same, and keeps it."""
        self.log.append((method, args))
        if error is not None:
            self.refused(lambda player: getattr(player, method)(*args), error, "")
            return []
        answers = getattr(self.player, method)(*args)
        if self.copy is not None:
            again = getattr(self.copy, method)(*args)
            assert len(answers) == len(again) and all(a.same_bits(b) for a, b in zip(answers, again, strict=True))
        return answers

    @invariant()
    def knows_what_it_should(self) -> None:
        if not hasattr(self, "player"):
            return
        for player in filter(None, (self.player, self.copy)):
            assert_facts(player.state, self.model)
            assert_consistent(player.state)
        if self.copy is not None:
            assert snapshot(self.copy.state) == snapshot(self.player.state)

    def teardown(self) -> None:
        if not hasattr(self, "player") or sys.exc_info()[0] is not None:
            return  # a rule has failed
        self.passes.clear()
        again = self.opened()
        repeat(again, self.log)
        assert snapshot(again.state) == snapshot(self.player.state)


def repeat(player: Player, log: list[Entry]) -> None:
    for method, args in log:
        try:
            getattr(player, method)(*args)
        except RuntimeError as error:
            assert "no points, box or mask" in str(error)


TestVideoSessions = VideoSessions.TestCase
TestVideoSessions.settings = examples(10, stateful_step_count=16)


def test_an_id_that_comes_back_during_a_pass_is_another_object() -> None:
    """It takes part in the next pass only; drawn calls seldom come to this."""
    p = predictor.__wrapped__()  # as it is built, whatever was set on the other one
    state = p.init_state(video_frames())
    for obj_id in ("a", "b"):
        p.add_new_points_or_box(state, 0, obj_id, [[20, 20]], [1])
    coming = p.propagate_in_video(state, progress=False)
    assert next(coming)[1] == ["a", "b"]
    p.remove_object(state, "a")
    p.add_new_points_or_box(state, 1, "a", [[5, 5]], [1])
    assert all(names == ["b"] for _, names, _ in coming)
    assert not state.objects["a"].tracked
    assert [names for _, names, _ in p.propagate_in_video(state, progress=False)] == [["b", "a"]] * LONGEST
