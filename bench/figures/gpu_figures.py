"""Whatever was measured on GPUs; until then, that nothing was."""

from figures.charts import Chart
from figures.curve_figures import curve_charts, curve_tables
from figures.measured import encoder_table
from figures.results import Report, Results, read
from figures.suite_figures import slug, suite_charts, suite_gpus, suite_tables

NOTHING = "Nothing has been measured on a GPU."


def gpu(results: Results) -> str:
    """Every table of figures from GPUs."""
    parts = []
    for report in suite_gpus(results):
        parts += [f"### {report.data['machine']['gpu']}", suite_tables(results, report, _prefix(report), "####")]
    if encoder := results.find("encoder-gpu"):
        parts += ["### The encoder, eager and compiled", encoder_table(results, encoder)]
    if curves := results.find("curves-gpu"):
        parts += ["### Objects and history", curve_tables(results, curves, "curves-gpu")]
    if micro := _micro(results):
        listed = "".join(f"\n- {results.link(report, report.data['machine']['device'])}" for report in micro)
        parts.append(f"Single kernels (`make gpu PART=micro`):\n{listed}")
    return "\n\n".join(parts) if parts else NOTHING


def gpu_state(results: Results) -> str:
    """A piece of a sentence."""
    names = {report.data["machine"]["gpu"] for report in suite_gpus(results)}
    names |= {found.data["machine"]["gpu"] for kind in ("encoder-gpu", "curves-gpu") if (found := results.find(kind))}
    names |= {report.data["machine"]["device"] for report in _micro(results)}
    if not names:
        return "nothing has been measured on a GPU"
    page = f"{results.root}docs/benchmarks.md"
    return f"measured on {' and '.join(sorted(names))}: [benchmarks]({page})"


def gpu_charts(results: Results) -> dict[str, Chart]:
    charts: dict[str, Chart] = {}
    for report in suite_gpus(results):
        charts |= suite_charts(report, _prefix(report), report.data["machine"]["gpu"])
    if curves := results.find("curves-gpu"):
        charts |= curve_charts(curves, "curves-gpu")
    return charts


def _prefix(report: Report) -> str:
    return f"suite-{slug(report.data['machine']['gpu'])}"


def _micro(results: Results) -> list[Report]:
    """Reports of ``make gpu``, which name themselves after their device."""
    reports = [read(path) for path in sorted(results.folder.glob("*.json"))]
    measured = [report for report in reports if "parts" in report.data and "device" in report.data["machine"]]
    return [report for report in measured if not report.data["machine"]["device"].startswith("CPU")]
