"""What a campaign has tried and found, as a file among the results of benchmarks."""

import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BENCH = Path(__file__).parents[2] / "bench"
OUTCOMES = ("accepted", "refused", "finding")


def write(folder: Path, counts: Mapping[tuple[str, str], int], sound: Mapping[str, int], **facts: Any) -> Path:
    """Writes today's ``fuzz-cpu-DATE.json``.

    Args:
        counts: mutated files by reader and outcome.
        sound: files that are sound, by outcome.
        facts: what else is to be told.
    """
    sys.path.append(str(BENCH))
    from reports import write_report
    from suite.machine import machine

    targets = {
        target: {outcome: counts.get((target, outcome), 0) for outcome in OUTCOMES} for target, _ in sorted(counts)
    }
    totals: Counter[str] = Counter()
    for (_, outcome), count in counts.items():
        totals[outcome] += count
    return write_report(
        folder,
        "fuzz-cpu",
        machine=machine() | {"libraries": libraries()},
        **facts,
        **{outcome: totals[outcome] for outcome in OUTCOMES},
        sound={outcome: sound.get(outcome, 0) for outcome in OUTCOMES},
        targets=targets,
    )


def libraries() -> dict[str, str]:
    """Versions of what decodes and encodes files."""
    import av
    import numpy
    import omegaconf
    import PIL
    import safetensors
    import yaml

    found = {module.__name__: module.__version__ for module in (av, numpy, omegaconf, PIL, safetensors, yaml)}
    return {**found, **{name: ".".join(map(str, version)) for name, version in av.library_versions.items()}}
