"""Benchmark sessions without a model, and their rows."""

import json

import torch
from suite.missing import MissingError
from suite.plans import Case
from suite.results import validate_row
from suite.sessions import Sample
from suite.subjects import SUBJECTS, Setting
from suite.timing import Measured, measure, opened

SETTING = Setting("nano", "fp32", 64, objects=2)
BOTH = ("official", "sam2fast")


class Stand:
    """A session without a model; every call takes the next of the given durations."""

    def __init__(self, result=1.0, seconds=(5.0, 3.0, 2.0, 4.0), earlier=(), compile_s=None, fails_after=None,
                 host_s=None, log=None):  # fmt: skip
        self.results = result if callable(result) else lambda call: torch.tensor([[result, 2.0]])
        self.seconds, self.notes, self.earlier_s, self.compile_s = seconds, [], list(earlier), compile_s
        self.peak_mib, self.calls, self.fails_after = None, 0, fails_after
        self.checked, self.path, self.host_s, self.log = None, "eager", host_s, log

    def prepare(self, setting):
        self.setting = setting

    def call(self):
        if self.calls == self.fails_after:
            raise RuntimeError("out of luck\nand more")
        self.calls += 1
        if self.log is not None:
            self.log.append(self)
        return Sample(self.seconds[(self.calls - 1) % 4], [self.results(self.calls)], self.host_s)

    def scores(self):
        return [[self.seconds[0]]]

    def close(self):
        self.closed = True


def case_with(sessions, exact=None, **kwargs):
    def open_(subject, setting):
        if exact is not None and setting.dtype == "fp32" and subject in exact:
            return exact[subject]
        if subject not in sessions:
            raise MissingError("not today")
        return sessions[subject]

    return Case("stand", open_, "nothing", **kwargs)


def row_of(sessions, dtype="fp32", runs=3, asked=SUBJECTS, **kwargs):
    case, setting = case_with(sessions, **kwargs), Setting("nano", dtype, 64)
    with opened(case, setting, asked) as found:
        (row,) = measure([Measured(case, setting, found)], runs)
    validate_row(json.loads(json.dumps(row)))
    return row


def rows(*names):
    return [{**row_of({"official": Stand(), "sam2fast": Stand()}), "case": name} for name in names]
