"""Times the subjects of one case in turn, in one process, and makes the row of it.

Before anything counts, every subject is called once, and the results are compared; see :mod:`suite.accuracy`. They are
compared again after every round: in fp32 a subject that differs by more than is allowed gets no time.
"""

import contextlib
import gc
import statistics
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import torch
from gpu.device_state import watched

from sam2fast.engine.graphs import memory_of_graphs
from suite.accuracy import ALLOWED, judged
from suite.missing import GaveUpError, MissingError
from suite.plans import THROUGHPUT, Case, Group
from suite.results import FIGURES, KEY, validate_row
from suite.sessions import PredictorSession, Sample, Session, object_ious
from suite.subjects import BASELINE, COMPILED, SUBJECTS, Setting, is_ours, plain_fp32

LEAST = 2  # rounds, however long they take
ALIKE = 0.9  # IoU of masks, below which another one was chosen


class Memory:
    """Memory of one subject on a GPU while others have theirs there, in bytes.

    Attributes:
        held: bytes that it has allocated and keeps, with its model.
        peak: the most that it has had.
        graphs: bytes that torch keeps for the CUDA graphs of all our predictors. ``peak`` has them only while they are
            recorded.
    """

    def __init__(self) -> None:
        self.held = self.peak = self.graphs = 0

    @contextlib.contextmanager
    def counting(self, device: str) -> Iterator[None]:
        """Counts what is allocated inside for the subject."""
        if not device.startswith("cuda"):
            yield
            return
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        yield
        self.peak = max(self.peak, self.held + torch.cuda.max_memory_allocated(device) - before)
        self.held += torch.cuda.memory_allocated(device) - before
        self.graphs = memory_of_graphs(torch.device("cuda", torch.cuda.current_device()))

    def add_model(self, session: Session) -> None:
        """Counts a model that another session has built."""
        if isinstance(session, PredictorSession) and session.built.is_shared:
            predictor = session.built.predictor
            model = predictor if isinstance(predictor, torch.nn.Module) else predictor.model
            self.held += sum(x.nbytes for x in (*model.parameters(), *model.buffers()))


class _Subject:
    """Measurements of one subject at one setting."""

    def __init__(self, name: str, session: Session | None, reason: str = "", memory: Memory | None = None) -> None:
        self.name, self.session, self.reason, self.memory = name, session, reason, memory or Memory()
        self.ious: list[float] = []  # the least of each object
        self.first: Sample | None = None
        self.samples: list[Sample] = []
        self.difference: float | None = None
        self.error: float | None = None  # of bfloat16 from fp32
        self.notes: list[str] = []

    def attempt(self, step: Callable[[Session], Any], device: str) -> Any:
        """Returns the result of the step; None if the subject was refused, or fails and is refused from now on."""
        if self.session is None or self.reason:
            return None
        try:
            with self.memory.counting(device):
                return step(self.session)
        except MissingError as error:
            self.refuse(str(error))
        except GaveUpError as error:
            self.refuse(f"FAILED: recording gave up: {error}")
        except Exception as error:  # whatever it is, the others go on
            traceback.print_exc()
            self.refuse(f"FAILED: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
        return None

    def refuse(self, reason: str) -> None:
        self.reason, self.samples = reason, []


Opened = Sequence[tuple[str, Session | None, str, Memory]]


@contextlib.contextmanager
def opened(case: Case, setting: Setting, subjects: Sequence[str]) -> Iterator[Opened]:
    """Opens sessions of the subjects, each with the reason if there is none, and its memory."""
    plain_fp32()
    if set(subjects) & set(COMPILED):
        torch.compiler.reset()  # or what other rows compiled would count against the limit of recompilations
    found: list[tuple[str, Session | None, str, Memory]] = []
    with contextlib.ExitStack() as closing:
        for name in subjects:
            memory = Memory()
            try:
                with memory.counting(setting.device):
                    session = case.open(name, setting)
            except MissingError as error:
                found.append((name, None, str(error), memory))
            else:
                memory.add_model(session)
                closing.callback(session.close)
                found.append((name, session, "", memory))
        yield found
        found.clear()


def run(groups: Sequence[Group], save: Callable[[dict[str, Any]], None] = lambda row: None) -> bool:
    """Measures the groups in turn; neighbours that are ``interleaved`` together, row by row.

    Args:
        save: is given each row as it comes, of the form that :mod:`suite.results` describes.

    Returns:
        True if all were measured, and no result was wrong and no subject failed.
    """
    right = True
    for together in batches(groups):
        right &= _run(together, save)
        gc.collect()  # compiled functions refer to their models in circles
        if together[0].setting.device.startswith("cuda"):
            torch.cuda.empty_cache()
    return right


def batches(groups: Sequence[Group]) -> Iterator[list[Group]]:
    """Yields groups that are measured together: neighbours that are ``interleaved``, or one group."""
    for interleaved, some in groupby(groups, key=lambda group: group.interleaved):
        neighbours = list(some)
        yield from [neighbours] if interleaved else ([group] for group in neighbours)


def _run(groups: Sequence[Group], save: Callable[[dict[str, Any]], None]) -> bool:
    """Measures groups together that have as many pairs of objects and history."""
    right = True
    # Least history first, so that each row has no more than it says; seven frames are tracked in any case.
    pairs = [sorted(group.at, key=lambda pair: (pair[1] or 11, pair[0] or 0)) for group in groups]
    with contextlib.ExitStack() as stack:
        sessions = [stack.enter_context(opened(group.case, group.setting, group.subjects)) for group in groups]
        for at in zip(*pairs, strict=True):
            several = [
                Measured(group.case, replace(group.setting, objects=objects, history=history), own)
                for group, (objects, history), own in zip(groups, at, sessions, strict=True)
            ]
            rows = measure(several, groups[0].runs, patience_s=groups[0].patience_s)
            for group, row in zip(groups, rows, strict=True):
                described(row)
                validate_row(row)
                save(row)
                notes = [subject["note"] for subject in row["subjects"].values()]
                right &= not any(note.startswith(("WRONG", "FAILED")) for note in notes)
                right &= "sam2fast" not in group.subjects or bool(row["subjects"]["sam2fast"]["samples_s"])
    return right


def measure(several: "Sequence[Measured]", runs: int, patience_s: float = float("inf")) -> list[dict[str, Any]]:
    """Measures cases at a setting each, which take turns.

    Args:
        several: cases with their sessions.
        runs: number of rounds.
        patience_s: seconds after which no further round begins, if there are two.

    Returns:
        A row of each.
    """
    for one in several:
        one.begin()
    with watched(torch.device(several[0].setting.device)) as clocks:
        start = time.perf_counter()
        for done in range(runs):
            if done >= LEAST and time.perf_counter() - start > patience_s:
                break
            for one in several:
                one.round()
    # A time too short for a sample leaves a note, and then the row gets those of its step.
    return [one.row() | ({"clocks": clocks} if "samples" in clocks else {}) for one in several]


class Measured:
    """One case at one setting, with the sessions of its subjects."""

    def __init__(self, case: Case, setting: Setting, sessions: Opened) -> None:
        self.case, self.setting = case, setting
        self.subjects = [_Subject(*found) for found in sessions]

    def begin(self) -> None:
        """Calls every subject once, and refuses wrong ones."""
        self._each(lambda session: session.prepare(self.setting))
        firsts = self._each(lambda session: session.call())
        for subject, first in zip(self.subjects, firsts, strict=True):
            subject.first = first
        _judge(self.case, self.setting, self.subjects)
        _compare(self.case, self.setting, self.subjects, firsts)

    def round(self) -> None:
        """Times every subject once more."""
        latest = self._each(lambda session: session.call())
        for subject, sample in zip(self.subjects, latest, strict=True):
            subject.samples += [] if sample is None else [sample]
        _compare(self.case, self.setting, self.subjects, latest)

    def row(self) -> dict[str, Any]:
        """Returns the row of the suite."""
        there = {s.name for s in self.subjects}
        subjects = [*self.subjects, *(_Subject(n, None, "not asked for") for n in SUBJECTS if n not in there)]
        order = sorted(subjects, key=lambda s: SUBJECTS.index(s.name))
        row = {"case": self.case.name} | {name: getattr(self.setting, name) for name in KEY[1:]}
        row |= {"subjects": {s.name: _figures(self.case, s) for s in order}, "ratio": _ratios(order)}
        row |= {"difference": {s.name: s.difference for s in order if s.difference is not None}, "note": self.case.note}
        ious = {s.name: s.ious for s in order if s.ious}
        row |= {"iou": ious} if ious else {}
        if any(iou < ALIKE for found in ious.values() for iou in found):
            found = [s.attempt(lambda session: session.scores(), self.setting.device) for s in self.subjects]
            row["scores"] = {s.name: scores for s, scores in zip(self.subjects, found, strict=True) if scores}
        return row

    def _each(self, step: Callable[[Session], Any]) -> list[Any]:
        return [subject.attempt(step, self.setting.device) for subject in self.subjects]


def _judge(case: Case, setting: Setting, subjects: Sequence[_Subject]) -> None:
    """Refuses wrong subjects before anything is timed."""
    checked = {}
    for subject in subjects:
        if subject.session is not None and subject.first is not None:
            own = subject.session.checked
            checked[subject.name] = subject.first.result if own is None else own
    found = judged(case, setting, checked, BASELINE in {subject.name for subject in subjects})
    for subject in subjects:
        subject.error = found.errors.get(subject.name)
        if subject.name in found.wrong:
            subject.refuse(f"WRONG: {found.wrong[subject.name]}; not timed")
        if found.note and is_ours(subject.name):
            subject.notes.append(found.note)


def _compare(case: Case, setting: Setting, subjects: Sequence[_Subject], latest: Sequence[Sample | None]) -> None:
    """Compares the results of one round with the baseline's, and drops them."""
    results = {s.name: sample.result for s, sample in zip(subjects, latest, strict=False) if sample is not None}
    first = BASELINE if BASELINE in results else next(iter(results), None)
    for subject in subjects:
        if first is None or subject.name == first or subject.name not in results:
            continue
        difference = case.compare(results[first], results[subject.name])
        wrong = difference > ALLOWED and (setting.dtype == "fp32" or difference == float("inf"))
        if wrong and not subject.reason:
            found = "its results are not of the same form, or not numbers" if difference == float("inf") else ""
            subject.refuse(f"WRONG: {found or f'differs from {first} by {difference:.1e}'}; not timed")
        if difference != float("inf"):
            subject.difference = max(difference, subject.difference or 0.0)
            if case.has_masks:
                ious = object_ious(results[first], results[subject.name])
                subject.ious = [min(pair) for pair in zip(ious, subject.ious or ious, strict=True)]
    for sample in latest:
        if sample is not None:
            sample.result = None


def _figures(case: Case, subject: _Subject) -> dict[str, Any]:
    samples, session = [x.seconds for x in subject.samples], subject.session
    figures: dict[str, Any] = {"samples_s": samples, **dict.fromkeys(FIGURES), "note": subject.reason, "path": ""}
    if session is not None:
        figures["path"] = session.path
    if subject.error is not None:
        figures["error"] = subject.error
    if session is None or not samples or subject.first is None:
        return figures | {"note": subject.reason or "not timed"}
    median = statistics.median(samples)
    figures |= {"median_s": median, "min_s": min(samples), "max_s": max(samples), "first_s": subject.first.seconds}
    hosts = [x.host_s for x in subject.samples if x.host_s is not None]
    figures |= {"host_s": statistics.median(hosts)} if hosts else {}
    on_gpu = subject.memory.peak / 2**20 or None
    figures |= {"peak_mib": session.peak_mib or on_gpu, "note": "; ".join([*session.notes, *subject.notes])}
    if is_ours(subject.name) and subject.memory.graphs:
        figures["graphs_mib"] = subject.memory.graphs / 2**20
    if subject.name in COMPILED or session.compile_s is not None:
        # Compilation during the first calls is the time that they took longer.
        slow = [*session.earlier_s, subject.first.seconds] if subject.name in COMPILED else []
        figures["compile_s"] = (session.compile_s or 0.0) + sum(max(0.0, x - median) for x in slow)
    if case.percentiles:
        figures |= {f"p{q}_s": _percentile(samples, q) for q in (50, 95, 99)}
    return figures


def _percentile(samples: Sequence[float], percent: int) -> float:
    """Returns the smallest sample that ``percent`` of them do not exceed."""
    return sorted(samples)[-(-percent * len(samples) // 100) - 1]


def _ratios(subjects: Sequence[_Subject]) -> dict[str, dict[str, float]]:
    baseline = next((s for s in subjects if s.name == BASELINE and s.samples), None)
    if baseline is None:
        return {}
    found = {}
    for subject in subjects:
        if subject is not baseline and subject.samples:
            pairs = zip(baseline.samples, subject.samples, strict=True)
            ratios = [a.seconds / b.seconds for a, b in pairs]
            found[subject.name] = {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
    return found


def described(row: dict[str, Any]) -> None:
    """Prints a row."""
    about = [row["size"], row["dtype"], f"{row['image_size']} px"]
    about += [f"{row[name]} {name}" if name == "objects" else f"history {row[name]}" for name in ("objects", "history")
              if row[name] is not None]  # fmt: skip
    print(f"{row['case']}, {', '.join(about)}", flush=True)
    for name, figures in row["subjects"].items():
        line = figures["note"]
        if figures["median_s"] is not None:
            parts = [f"{figures['median_s']:.4g} s ({figures['min_s']:.4g}-{figures['max_s']:.4g})"]
            parts += [f"{1 / figures['median_s']:.4g} frames/s"] if row["case"].startswith(THROUGHPUT) else []
            if name in row["ratio"]:
                ratio = row["ratio"][name]
                parts.append(f"{ratio['median']:.2f}x ({ratio['min']:.2f}-{ratio['max']:.2f})")
            parts += [f"difference {row['difference'][name]:.1e}"] if name in row["difference"] else []
            parts += [f"{figures['peak_mib']:.0f} MiB"] if figures["peak_mib"] is not None else []
            parts += [f"{figures['graphs_mib']:.0f} MiB of graphs"] if "graphs_mib" in figures else []
            parts += [f"host {figures['host_s']:.4g} s"] if "host_s" in figures else []
            parts += [figures["path"]] if figures["path"] else []
            line = ", ".join(parts) + (f" [{figures['note']}]" if figures["note"] else "")
        print(f"    {name}: {line}", flush=True)
