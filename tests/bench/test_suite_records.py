"""Rows of whole calls say more than times: memory, clocks, IoUs of objects, scores of the masks that were chosen."""

import contextlib
import time
from dataclasses import replace

import pytest
import torch
from bench_stands import BOTH, SETTING, Stand, case_with, row_of
from gpu.device_state import clocks
from suite import plans, sessions, subjects, timing, video_cases
from suite.plans import THROUGHPUT, case_of
from suite.results import validate_row
from suite.subjects import Setting, shared_models, timed
from suite.timing import Memory, opened, run


def test_waits_that_sleep_are_not_the_host_s():
    seconds, result, host_s = timed("cpu", lambda: time.sleep(0.05) or 7)
    assert seconds > 0.05 > 0.02 > host_s >= 0 and result == 7
    assert timed("cpu", lambda: sum(range(3_000_000))).host_s > host_s


MASKS = torch.tensor([[1.0, 1.0, -1.0, -1.0], [-1.0, 2.0, 2.0, 2.0], [-1.0, -1.0, -1.0, -1.0]])


def test_ious_of_objects():
    other = torch.tensor([[1.0, -1.0, -1.0, -1.0], [-1.0, 2.0, 2.0, 2.0], [-1.0, -1.0, -1.0, -1.0]])
    assert sessions.object_ious([MASKS], [other]) == [0.5, 1.0, 1.0]
    assert sessions.object_ious([MASKS[2:]], [MASKS[1:2]]) == [0.0]


def test_a_row_has_the_least_iou_and_scores_where_masks_differ():
    """The mask of the third call is another one; in the second row none is."""

    def ours(call):
        return torch.tensor([[-1.0 if call == 3 else 1.0, 2.0]])

    row = row_of(
        {"official": Stand(), "sam2fast": Stand(ours, seconds=(0.7,) * 4)}, "bf16", exact={"official": Stand()}
    )
    assert row["iou"] == {"sam2fast": [0.5]}
    assert row["scores"] == {"official": [[5.0]], "sam2fast": [[0.7]]}
    alike = row_of({"official": Stand(), "sam2fast": Stand()})
    assert alike["iou"] == {"sam2fast": [1.0]} and "scores" not in alike
    assert "iou" not in row_of({"official": Stand(), "sam2fast": Stand()}, has_masks=False)


@pytest.mark.parametrize("name", ["video steady frame", "predict"])
def test_scores_are_the_decoder_s(name):
    """Of both packages alike; a predictor tracks on as before, on its own path."""
    setting = Setting("nano", "fp32", 64)
    with opened(case_of(name), setting, BOTH) as found:
        both = []
        for _, session, *_ in found:
            session.prepare(setting)
            session.call()
            both.append(session.scores())
    assert [len(ious) for ious in both[0]] == ([3, 3] if name != "predict" else [3])
    for official, ours in zip(*both, strict=True):
        assert official == pytest.approx(ours, abs=1e-4) and len(set(official)) > 1


def test_a_session_with_alternatives_leaves_a_shared_model_as_it_was():
    with shared_models():
        first = video_cases.FirstFrames("sam2fast", Setting("nano", "fp32", 64), alternatives=True)
        predictor = first.built.predictor
        assert predictor.fast is False and "forward" in vars(predictor.sam_mask_decoder)
        first.close()
        assert predictor.fast is not False and "forward" not in vars(predictor.sam_mask_decoder)


def test_models_are_built_once(monkeypatch):
    built = []
    for name in ("_our_model", "_official_model"):
        build = getattr(subjects, name)

        def counted(*given, build=build, **more):
            built.append(given)
            return build(*given, **more)

        monkeypatch.setattr(subjects, name, counted)
    fp32, bf16 = Setting("nano", "fp32", 64), Setting("nano", "bf16", 64, objects=2)
    with shared_models():
        for setting in (fp32, bf16, fp32):
            for name in BOTH:
                subjects.video_predictor(name, setting).closing.close()
        assert len(built) == 3  # ours has weights in each dtype
    subjects.video_predictor("sam2fast", fp32).closing.close()
    assert len(built) == 4


class Allocator:
    """Torch's counters of memory on a GPU."""

    def __init__(self, monkeypatch):
        self.now = self.most = 0
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: self.now)
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: self.most)
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: setattr(self, "most", self.now))

    def take(self, size):
        self.now += size
        self.most = max(self.most, self.now)


def test_memory_of_each_subject(monkeypatch):
    """Beside another with 1000 bytes: it keeps 100, then 50 more, and has 30 meanwhile."""
    allocator, memory = Allocator(monkeypatch), Memory()
    allocator.take(1000)
    with memory.counting("cuda"):
        allocator.take(100)
    allocator.take(500)
    with memory.counting("cuda"):
        allocator.take(80)
        allocator.take(-30)
    assert (memory.held, memory.peak) == (150, 180)
    with shared_models():
        first, second = (case_of("image encode").open("sam2fast", SETTING) for _ in range(2))
        memory.add_model(first)
        assert memory.held == 150
        memory.add_model(second)
        assert memory.held > 150 + 1e6
    with memory.counting("cpu"):
        allocator.take(7)
    assert memory.peak == 180


def test_rows_of_a_gpu_have_the_memory_of_our_graphs(monkeypatch):
    """The official package has none of them, and a predictor without graphs has no such figure."""
    Allocator(monkeypatch)
    held = {torch.device("cuda", 0): 3 * 2**20}
    monkeypatch.setattr(timing, "memory_of_graphs", held.__getitem__)
    setting, case = replace(SETTING, device="cuda"), case_with({})
    rows = []
    for _ in range(2):
        sessions = [(name, Stand(), "", Memory()) for name in BOTH]
        one = timing.Measured(case, setting, sessions)
        one.begin()
        one.round()
        rows.append(one.row()["subjects"])
        validate_row(one.row())
        held[torch.device("cuda", 0)] = 0
    assert rows[0]["sam2fast"]["graphs_mib"] == 3 and "graphs_mib" not in rows[0]["official"]
    assert "graphs_mib" not in rows[1]["sam2fast"]


def test_rows_of_a_gpu_have_its_clocks_while_they_are_timed(monkeypatch):
    log = []

    @contextlib.contextmanager
    def watched(device):
        found = {}
        log.append("begins")
        yield found
        found |= clocks(printed.pop())

    printed = ["", "1980, 310.5, 41, 0x1"]  # by nvidia-smi; the second time nothing
    monkeypatch.setattr(timing, "watched", watched)
    row = row_of({"sam2fast": Stand(log=log)})
    assert row["clocks"]["samples"] == 1 and row["clocks"]["SM MHz"]["min"] == 1980
    assert log[1] == "begins" and len(log) == 1 + 4  # after the first call, which does not count
    assert "clocks" not in row_of({"sam2fast": Stand()})


def test_groups_that_are_interleaved_take_turns():
    log, kept = [], []
    stands = [Stand(log=log) for _ in range(3)]
    groups = [
        plans.Group(case_with({"sam2fast": stand}), Setting(size, "fp32", 64), ((1, None),), 2, ("sam2fast",),
                    interleaved=interleaved)
        for stand, size, interleaved in zip(stands, "tsl", (True, True, False), strict=True)
    ]  # fmt: skip
    assert run(groups, kept.append)
    a, b, c = stands
    assert log == [a, b, a, b, a, b, c, c, c] and [row["size"] for row in kept] == ["t", "s", "l"]


def test_throughput_says_how_many_frames_were_encoded_and_what_the_host_takes():
    setting = Setting("nano", "fp32", 64, objects=1, frames=3)
    with contextlib.closing(case_of(THROUGHPUT).open("sam2fast", setting)) as session:
        session.prepare(setting)
        session.call()
        before = session.encoded
        sample = session.call()
        assert session.encoded - before == session.frames == 3 and 0 < sample.host_s <= sample.seconds
