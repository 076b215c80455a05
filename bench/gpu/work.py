"""Jobs of the steps, each in its own process: a function per job, which sends rows and returns how it ended.

Modules beyond torch, triton and numpy are imported inside the jobs; a missing one ends only that step.
"""

import datetime
import json
import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from gpu import device_state
from gpu.records import read_records, unfinished_rows
from gpu.steps import ATEN_ONLY, CANDIDATES, COMPARED, Comparison, plan
from sam2fast.kernels._dispatch import torch_ops
from sam2fast.kernels._op import OPS

ROOT = Path(__file__).resolve().parents[2]
KERNELS = "kernels/test_parity.py"

# Packages that a machine may lack; any other one that cannot be imported is a failure.
OPTIONAL = ("antlr4", "av", "hydra", "iopath", "omegaconf", "pytest", "sam2", "scipy", "torchvision")
VOS = "official vos_optimized"
MICRO_S = 0.1  # for the samples of each subject of a case


class Outcome(NamedTuple):
    """How a job ended."""

    right: bool
    figure: str = ""
    why: str = ""  # the reason if it is not right
    missing: str = ""  # the package without which it was not run
    unfinished: str = ""  # number of cases left for another call


class Context(NamedTuple):
    """Arguments of a job.

    Attributes:
        device: device that it runs on.
        send: sends one row of a part.
        rehearse: True to try only the code, in Triton's interpreter and at small shapes.
        limit_s: seconds after which the process is killed.
        earlier: rows of earlier runs of the step that ended unfinished.
    """

    device: torch.device
    send: Callable[[str, dict[str, Any]], None]
    limit_s: float = float("inf")
    rehearse: bool = False
    earlier: Sequence[dict[str, Any]] = ()


def environment(_: str, context: Context) -> Outcome:
    """Sends versions, the device, and rates of a large copy and of large matrix products, at once and for a second."""
    _send_machine(context)
    if context.rehearse:
        return Outcome(True, "no limits are measured in a rehearsal")
    from sam2fast.profiling.limits import measure_limits

    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    limits = measure_limits(context.device, dtypes)
    rates = {f"{name} TFLOP/s": rate / 1e12 for name, rate in limits.flops_per_s.items()}
    context.send("limits", {"copy TB/s": limits.bytes_per_s / 1e12, **rates})
    figure = f"{rates['bfloat16 TFLOP/s']:.0f} TFLOP/s bf16, {limits.bytes_per_s / 1e12:.2f} TB/s"
    if context.device.type != "cuda":
        return Outcome(True, figure)
    slower = device_state.sustained_rates(context.device)
    context.send("limits", slower)
    return Outcome(True, f"{figure}; for a second {', '.join(f'{rate:.3g} {name}' for name, rate in slower.items())}")


def _send_machine(context: Context) -> None:
    """Sends the machine and the date, without which rows cannot be collected."""
    from suite.machine import machine

    about: dict[str, Any] = {"date": datetime.date.today().isoformat(), "rehearsal": context.rehearse}
    context.send("environment", about | {"machine": machine(str(context.device))})


def parity(keywords: str, context: Context) -> Outcome:
    """Tests kernels against float64 on random inputs. A rehearsal knows only float32."""
    if context.rehearse:
        keywords = keywords.replace("bfloat16", "float32")
    return _tested(KERNELS, context, keywords=keywords)


def recorded(test: str, context: Context) -> Outcome:
    """Tests recorded steps or images against plain ones."""
    return _tested(f"tracking/test_tracking_parity.py::{test}", context)


def graph_memory(_: str, context: Context) -> Outcome:
    """Checks that a graph's memory stays its own when another graph is dropped and a third is recorded."""
    from gpu.graph_memory import rows_of

    wrong = 0
    for row in rows_of(context.device):
        context.send("memory of graphs", row)
        wrong += row["wrong"]
    return Outcome(not wrong, f"{wrong} wrong", f"{wrong} replays or other tensors have wrong values" * bool(wrong))


class _Rows:
    """A plugin of pytest that sends the row of each test as it ends."""

    def __init__(self, send: Callable[[str, dict[str, Any]], None]) -> None:
        self.send = send
        self.rows: list[dict[str, Any]] = []
        self.problems: list[str] = []

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.problems.append(f"{report.nodeid.partition('::')[2]}: {report.longreprtext.splitlines()[-1]}")
        for name, row in report.user_properties if report.when == "call" else ():
            if name == "row":
                self.rows.append(row)
                self.send(f"parity of {row['op']}", row)


def _tested(node: str, context: Context, keywords: str = "") -> Outcome:
    """Runs the tests of a file that are marked ``gpu`` and that ``keywords`` selects, in this process."""
    # Plugins of other packages may need packages that are not here.
    os.environ |= {
        "SAM2FAST_PARITY": "rehearsal" if context.rehearse else "short",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    import pytest

    found = _Rows(context.send)
    options = ["-q", "-m", "gpu", "--tb=short", "-p", "no:cacheprovider"]
    options += ["--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml")]
    code = pytest.main([*options, "-k", keywords, str(ROOT / "tests" / node)], plugins=[found])
    wrong = sum(row["wrong"] for row in found.rows)
    worst = max((row["largest error"] for row in found.rows if "largest error" in row), default=None)
    figure = f"{wrong} wrong in {len(found.rows)} rows" + ("" if worst is None else f", largest error {worst:.2g}")
    right = code == 0 and bool(found.rows)  # where no kernel can run, all tests are skipped
    why = "; ".join(found.problems) or f"pytest ended with {int(code)}"
    return Outcome(right, figure, "" if right else why[:300])


def micro(which: str, context: Context) -> Outcome:
    """Times kernels beside other ways of computing the same, and sends the sentence that is true of each comparison.

    Ends unfinished if the time is over. A later run continues with the cases that are left.

    Args:
        which: ``candidates`` for kernels that no configuration selects, or empty.
    """
    from kernel_records import cases, small_cases
    from measure import HEADER, case_rows, line_of
    from registry import WrongResultError

    from sam2fast.profiling.limits import Limits, measure_limits

    # The limits are measured in this process, so that a share of them is of one run.
    limits = Limits(1.0, {}) if context.rehearse else measure_limits(context.device)
    how = {"budget_s": 0.0, "least": 1} if context.rehearse else {"budget_s": MICRO_S}
    every = [case for case in (small_cases() if context.rehearse else cases()) if case.runs_on(context.device)]
    in_bf16 = {case.op for case in every if case.dtype == "bfloat16"}
    every = [case for case in every if case.dtype == "bfloat16" or case.op not in in_bf16]
    deadline = time.monotonic() + 0.8 * context.limit_s
    rows_of: dict[str, list[dict[str, Any]]] = {}  # by the case's name
    for row in context.earlier:
        if "subject" in row:
            rows_of.setdefault(f"{row['op']} {row['shape']} {row['dtype']}", []).append(row)
    by_torch = {name for name, op in OPS.items() if not torch_ops().isdisjoint((name, op.launches))}
    comparisons = [each for each in (CANDIDATES if which else COMPARED) if each.op not in by_torch]
    found, done, left = 0, 0, 0
    print(HEADER, flush=True)
    for comparison in comparisons:
        ratios = {}
        for case in every:
            is_asked = context.rehearse or re.fullmatch(comparison.shapes, case.shape)
            if case.op != comparison.op or not is_asked:
                continue
            if case.name not in rows_of and time.monotonic() > deadline:
                left += 1
                continue
            if case.name not in rows_of:
                try:
                    rows_of[case.name] = case_rows(case, context.device, limits, **how)
                except WrongResultError as error:
                    same = {"op": case.op, "shape": case.shape, "dtype": case.dtype}
                    rows_of[case.name] = [{**same, "subject": f"WRONG: {error}"}]
                for row in rows_of[case.name]:
                    context.send("micro", row)
                print(line_of(rows_of[case.name]), flush=True)
            done += 1
            ratio = ratio_of(comparison, rows_of[case.name])
            if ratio is not None:
                ratios[case.shape] = ratio
        if ratios:
            found += 1
            row = {"op": comparison.op, "ratios": ratios, "sentence": comparison.sentence(ratios)}
            print(row["sentence"], flush=True)
            context.send("sentences", row)
    wrong = [row["subject"] for rows in rows_of.values() for row in rows if row["subject"].startswith("WRONG: ")]
    unfinished = f"{left} of {done + left} cases are left" if left else ""
    why = "; ".join(wrong)[:200]
    return Outcome(not wrong, f"{found} of {len(comparisons)} comparisons, {done} cases", why, unfinished=unfinished)


def ratio_of(comparison: Comparison, rows: list[dict[str, Any]]) -> float | None:
    """Returns the least time of the other ways over ours; None if either was not timed."""
    times = {row["subject"]: row["p50 ms"] for row in rows if "p50 ms" in row}
    ours = next((times[name] for name in comparison.subjects if name in times), None)
    others = [ms for name, ms in times.items() if re.fullmatch(comparison.others, name)]
    return min(others) / ours if ours and others else None


def profile(size: str, context: Context) -> Outcome:
    """Profiles kernels of steady frames, and the gaps between them."""
    from suite.plans import ALONE, rehearsed
    from suite.subjects import Setting

    from gpu.frame_profile import profiled

    setting = Setting(size, "bf16", device=str(context.device), objects=1)
    every, *rest = profiled(ALONE, rehearsed(setting) if context.rehearse else setting, context.device)
    for row in (every, *rest):
        context.send("profile", {"model": size, **row})
    figure = f"{every['ms, not profiled']:.3g} ms a frame, profiled {every['us'] / 1e3:.3g} of which "
    figure += f"{every['busy us'] / 1e3:.3g} busy, {every['overlap us'] / 1e3:.3g} on several streams, "
    return Outcome(True, f"{figure}{every['encodes']:.2f} encodes, {every['calls']:.0f} kernels, {every['path']}")


def call(name: str, context: Context) -> Outcome:
    """Times whole calls of the predictors, beside the official package's; at last profiles ours.

    Ends unfinished if the time is over. A later run continues with the rows that are left.
    """
    from suite.plans import case_of, rehearsal, step
    from suite.results import key
    from suite.subjects import Setting, shared_models
    from suite.timing import batches, run

    from gpu.frame_profile import profiled

    rows: list[dict[str, Any]] = []

    def save(row: dict[str, Any]) -> None:
        compiled = row["subjects"][VOS]
        if compiled["samples_s"]:
            compiled["note"] = "; ".join([compiled["note"], *(f"{name}={os.environ[name]}" for name in ATEN_ONLY)])
        rows.append(row)
        context.send("suite", row)

    groups = rehearsal(name) if context.rehearse else step(name, str(context.device))
    deadline, left, right = time.monotonic() + 0.6 * context.limit_s, 0, True
    earlier = {key(row) for row in context.earlier if "case" in row}
    with shared_models():
        for some in batches(groups):
            if all(name in earlier for group in some for name in group.names()):
                continue
            if rows and time.monotonic() > deadline:
                left += len(some)
            else:
                right &= run(some, save)
        # After everything that is timed, since a profiler may slow down what follows it.
        for row in rows:
            case, ours = case_of(row["case"]), row["subjects"]["sam2fast"]
            if case.is_profiled and ours["samples_s"]:
                setting = Setting(row["size"], row["dtype"], row["image_size"], str(context.device), row["objects"],
                                  row["history"], groups[0].setting.frames if context.rehearse else None)  # fmt: skip
                row["device"] = profiled(case, setting, context.device)[0] | {"host us": ours["host_s"] * 1e6}
                context.send("suite", row)
    notes = [subject["note"] for row in rows for subject in row["subjects"].values()]
    missing = re.fullmatch("not run: (.*) is missing", rows[0]["subjects"]["sam2fast"]["note"]) if rows else None
    bad = [note for note in notes if note.startswith(("WRONG", "FAILED"))]
    unfinished = f"{left} of {len(groups)} groups of rows are left" if left else ""
    figure = _speed_of_calls(rows)
    return Outcome(right, figure, "; ".join(bad)[:200], missing[1] if missing else "", unfinished)


def _speed_of_calls(rows: list[dict[str, Any]]) -> str:
    """Describes each row: our frames per second and time, the ratio to the official package, and the path that ran."""
    said = []
    for row in rows:
        ours = [name for name in ("sam2fast fast", "sam2fast compiled", "sam2fast") if name in row["subjects"]]
        timed = [name for name in ours if row["subjects"][name]["median_s"]]
        if timed:
            found = row["subjects"][timed[0]]
            ratio = row["ratio"].get(timed[0])
            beside = f", {ratio['median']:.2f}x official" if ratio else ""
            compiled = row["subjects"].get(VOS, {}).get("median_s")
            beside += f", {compiled / found['median_s']:.2f}x its vos_optimized" if compiled else ""
            each = f"{1 / found['median_s']:.1f}/s, {found['median_s'] * 1e3:.4g} ms{beside}, {found.get('path', '')}"
            said.append(f"{row['case']}, {row['size']} {row['dtype']}, {row['objects'] or 1}: {each}")
    return "; ".join(said)


def mask_copies(_: str, context: Context) -> Outcome:
    """Times each part of the way of masks to the host."""
    from mask_copies import BOXES, row

    found = [row(count, context.device) for count in (BOXES[:1] if context.rehearse else BOXES)]
    for each in found:
        context.send("mask copies", each)
    bits, bools = found[-1]["bits"]["all_ms"], found[-1]["bool"]["all_ms"]
    return Outcome(True, f"{found[-1]['boxes']} boxes: {bits:.3g} ms as bits, {bools:.3g} as bytes")


def real_files(size: str, context: Context) -> Outcome:
    """Times commands from a video file to masks in files, beside the official package.

    The second runs of all subjects end if the time is over.
    """
    from real_files import rows

    deadline, said, errors = time.monotonic() + 0.6 * context.limit_s, {}, []
    for row in rows("nano" if context.rehearse else size, str(context.device), context.rehearse):
        context.send("real files", row)
        if "error" in row:
            errors.append(f"{row['subject']}: {row['error']}")
        else:
            said[row["subject"]] = f"{row['subject']}: {row['frames per second']:.3g}/s"
        if row["run"] and time.monotonic() > deadline:
            break
    return Outcome(not errors, "; ".join(said.values()), "; ".join(errors)[:300])


def at_once(_: str, context: Context) -> Outcome:
    """Counts frames of videos that several processes track at once."""
    from several_videos import rows

    found = []
    for row in rows(str(context.device), context.rehearse):
        context.send("at once", row)
        name = f"{row['size']} {row['image_size']}, {row['processes']}"
        found.append(f"{name}: {row['frames per second']:.3g}/s")
    return Outcome(True, "; ".join(found))


JOBS = {
    job.__name__: job
    for job in (environment, parity, recorded, graph_memory, micro, profile, call, mask_copies, real_files, at_once)
}


def main(
    name: str, device: str, rehearse: bool, records: int | None, limit_s: float, earlier: Path | None = None
) -> int:
    """Runs one step in this process.

    Args:
        records: file descriptor that rows and the end are written to.
        limit_s: seconds after which the process is killed.
        earlier: file with the records of earlier runs.

    Returns:
        The exit status.
    """

    def write(record: dict[str, Any]) -> None:
        if records is not None:
            data = memoryview((json.dumps(record, default=str) + "\n").encode())
            while data:
                data = data[os.write(records, data) :]

    by_torch = {"torch_ops": sorted(torch_ops())} if torch_ops() else {}

    def send(part: str, row: dict[str, Any]) -> None:
        write({"kind": "row", "part": part, "row": row | by_torch})

    if rehearse:
        from backend_calls import on_cpu  # and not what reads SAM2FAST_PARITY, which jobs set

        on_cpu()
    job, argument = next((step.job for step in plan() if step.name == name), (name, ""))
    start = time.perf_counter()
    on = torch.device(device)
    try:
        with device_state.watched(on) as clocks:
            before = unfinished_rows(read_records(earlier), name) if earlier and earlier.exists() else []
            context = Context(on, send, limit_s, rehearse, [record["row"] for record in before])
            if on.type == "cuda" and job != "environment":  # which a visit of some steps does not run
                _send_machine(context)
            outcome = JOBS[job](argument, context)
        if clocks:
            send("clocks", clocks)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in OPTIONAL:
            raise
        write({"kind": "end", "right": True, "missing": missing})
        return 0
    print(f"{name}: {outcome} in {time.perf_counter() - start:.1f} s", flush=True)
    write({"kind": "end", **outcome._asdict()})
    return 0 if outcome.right else 1
