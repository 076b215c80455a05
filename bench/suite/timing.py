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
from typing import Any

import torch

from suite.accuracy import ALLOWED, judged
from suite.missing import GaveUpError, MissingError
from suite.plans import THROUGHPUT, Case, Group
from suite.results import FIGURES, KEY, validate_row
from suite.sessions import Sample, Session
from suite.subjects import BASELINE, COMPILED, SUBJECTS, Setting, is_ours, plain_fp32

LEAST = 2  # rounds, however long they take


class _Subject:
    """What is known of one subject at one setting."""

    def __init__(self, name: str, session: Session | None, reason: str = "") -> None:
        self.name, self.session, self.reason = name, session, reason
        self.first: Sample | None = None
        self.samples: list[Sample] = []
        self.difference: float | None = None
        self.error: float | None = None  # of bfloat16 from fp32
        self.notes: list[str] = []

    def attempt(self, step: Callable[[Session], Any]) -> Any:
        """What the step gives; None where the subject is out, or fails now and is out from here on."""
        if self.session is None or self.reason:
            return None
        try:
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


@contextlib.contextmanager
def opened(case: Case, setting: Setting, subjects: Sequence[str]) -> Iterator[list[tuple[str, Session | None, str]]]:
    """Sessions of the subjects, with the reason where there is none."""
    plain_fp32()
    if set(subjects) & set(COMPILED):
        torch.compiler.reset()  # or what other rows compiled would count against the limit of recompilations
    found: list[tuple[str, Session | None, str]] = []
    with contextlib.ExitStack() as closing:
        for name in subjects:
            try:
                session = case.open(name, setting)
            except MissingError as error:
                found.append((name, None, str(error)))
            else:
                closing.callback(session.close)
                found.append((name, session, ""))
        yield found
        found.clear()


def run(groups: Sequence[Group], save: Callable[[dict[str, Any]], None] = lambda row: None) -> bool:
    """Measures the groups in turn.

    Args:
        save: is given each row as it comes, of the form that :mod:`suite.results` describes.

    Returns:
        Whether all were measured, and no result was wrong and no subject failed.
    """
    right = True
    for group in groups:
        # Least history first, so that each row has no more than it says; seven frames are tracked in any case.
        at = sorted(group.at, key=lambda pair: (pair[1] or 11, pair[0] or 0))
        with opened(group.case, group.setting, group.subjects) as sessions:
            for objects, history in at:
                setting = replace(group.setting, objects=objects, history=history)
                row = measure(group.case, setting, group.runs, sessions, patience_s=group.patience_s)
                described(row)
                validate_row(row)
                save(row)
                notes = [subject["note"] for subject in row["subjects"].values()]
                right &= not any(note.startswith(("WRONG", "FAILED")) for note in notes)
                right &= "sam2fast" not in group.subjects or bool(row["subjects"]["sam2fast"]["samples_s"])
        gc.collect()  # compiled functions refer to their models in circles
        if group.setting.device.startswith("cuda"):
            torch.cuda.empty_cache()
    return right


def measure(
    case: Case,
    setting: Setting,
    runs: int,
    sessions: Sequence[tuple[str, Session | None, str]],
    patience_s: float = float("inf"),
) -> dict[str, Any]:
    """The row of one case at one setting.

    Args:
        patience_s: after so many seconds no further round is begun, if there are two of them.
    """
    subjects = [_Subject(*found) for found in sessions]
    for subject in subjects:
        subject.attempt(lambda session: session.prepare(setting))
    for subject in subjects:
        subject.first = subject.attempt(lambda session: session.call())
    _judge(case, setting, subjects)
    _compare(case, setting, subjects, [s.first for s in subjects])
    start = time.perf_counter()
    for done in range(runs):
        if done >= LEAST and time.perf_counter() - start > patience_s:
            break
        latest = [subject.attempt(lambda session: session.call()) for subject in subjects]
        for subject, sample in zip(subjects, latest, strict=True):
            subject.samples += [] if sample is None else [sample]
        _compare(case, setting, subjects, latest)
    there = {s.name for s in subjects}
    subjects += [_Subject(name, None, "not asked for") for name in SUBJECTS if name not in there]
    return _row(case, setting, subjects)


def _judge(case: Case, setting: Setting, subjects: Sequence[_Subject]) -> None:
    """Refuses who is wrong before anything is timed."""
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
    """Sets the results of one round against the baseline's, which are let go of then."""
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
    for sample in latest:
        if sample is not None:
            sample.result = None


def _row(case: Case, setting: Setting, subjects: Sequence[_Subject]) -> dict[str, Any]:
    order = sorted(subjects, key=lambda s: SUBJECTS.index(s.name))
    row = {"case": case.name} | {name: getattr(setting, name) for name in KEY[1:]}
    row |= {"subjects": {s.name: _figures(case, s) for s in order}, "ratio": _ratios(order)}
    return row | {"difference": {s.name: s.difference for s in order if s.difference is not None}, "note": case.note}


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
    figures |= {"peak_mib": session.peak_mib, "note": "; ".join([*session.notes, *subject.notes])}
    if subject.name in COMPILED or session.compile_s is not None:
        # What is compiled when it is first called shows as what those calls took longer.
        slow = [*session.earlier_s, subject.first.seconds] if subject.name in COMPILED else []
        figures["compile_s"] = (session.compile_s or 0.0) + sum(max(0.0, x - median) for x in slow)
    if case.percentiles:
        figures |= {f"p{q}_s": _percentile(samples, q) for q in (50, 95, 99)}
    return figures


def _percentile(samples: Sequence[float], percent: int) -> float:
    """The smallest sample that so many percent of them do not exceed."""
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
    """Prints what a row holds."""
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
            parts += [f"host {figures['host_s']:.4g} s"] if "host_s" in figures else []
            parts += [figures["path"]] if figures["path"] else []
            line = ", ".join(parts) + (f" [{figures['note']}]" if figures["note"] else "")
        print(f"    {name}: {line}", flush=True)
