"""Rows about the process's surroundings: rights, home, network, locale, interpreter flags."""

import os
import re
import shutil
import statistics
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from places import Place, Unavailable, checked, expect, run, told

NO_RIGHTS = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
STRANGER = ("setpriv", "--reuid=54321", "--regid=54321", "--clear-groups")
ASCII = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
# No variables for a home or a cache.
HOMELESS = {"HOME": None, "XDG_CACHE_HOME": None, "HF_HOME": None, "USER": None, "LOGNAME": None}
LATIN = "en_US.ISO-8859-1"
REPETITIONS = 5
LIGHT = 60  # modules: some of Python's own, no numpy and no torch
MOST_OF_TORCH = 1.5  # times as long as torch alone, a predictor may take to import


def read_only(place: Place) -> str:
    """The environment is read-only, bytecode included."""
    _needs("setpriv")
    folder = place.tested.folder
    before = _files(folder)
    checked(run("chmod", "-R", "a-w", folder))
    try:
        facts = place.tested.smoke(place.work("read-only"), prefix=NO_RIGHTS)
        expect(_files(folder) == before, "something was written")
    finally:
        checked(run("chmod", "-R", "u+w", folder))
    return told(facts)


def no_home(place: Place) -> str:
    """HOME unset, HOME in a folder that is not there, and a user of whom the system knows nothing."""
    _needs("setpriv")
    said = []
    for name, home in (("unset", None), ("absent", "/nonexistent/home")):
        facts = place.tested.smoke(place.work("no-home"), env=HOMELESS | {"HOME": home})
        said.append(f"{name}: image {facts['image']}")
    work = place.work("no-home")
    work.chmod(0o777)
    probe = place.tested.run("-c", "import sam2fast", cwd=work, env=HOMELESS, prefix=STRANGER)
    if probe.returncode and "Permission denied" in probe.stderr:
        raise Unavailable("a stranger may not run this Python; name one outside of your home with --python")
    facts = place.tested.smoke(work, env=HOMELESS, prefix=STRANGER)
    return f"{', '.join(said)}, unknown user: image {facts['image']}"


def no_network(place: Place) -> str:
    """In an empty network namespace; a download reports its error in one line."""
    if run("unshare", "--net", "true").returncode:
        raise Unavailable("unshare may not make a network")
    work = place.work("no-network")
    nothing = {"HF_HOME": str(work / "hub"), "SAM2FAST_CACHE": str(work / "cache")}
    offline = {"env": nothing, "prefix": ("unshare", "--net")}
    facts = place.tested.smoke(work, **offline)
    asked = place.tested.run("download", "tiny", "--quiet", cwd=work, program="sam2fast", **offline)
    expect(asked.returncode == 1 and "Traceback" not in asked.stderr, f"download: {asked.returncode} {asked.stderr}")
    return f"{told(facts)}; download: {asked.stderr.splitlines()[-1]}"


def latin_locale(place: Place) -> str:
    """A locale of ISO 8859-1, as old systems have it."""
    _needs("localedef")
    locales = place.work("locales")
    if run("localedef", "-i", "en_US", "-f", "ISO-8859-1", locales / LATIN).returncode > 1:
        raise Unavailable("localedef cannot make the locale")
    return _words("latin-locale", {"LOCPATH": str(locales), "LC_ALL": LATIN, "PYTHONUTF8": "0"}, place)


def _words(name: str, locale: Mapping[str, str | None], place: Place) -> str:
    """Names of files and objects in other scripts, encoded as UTF-8 on the disk, whatever the locale says."""
    facts = place.tested.smoke(place.work(name), env=locale)
    return f"{told(facts)}; {place.tested.script('foreign_words.py', place.work(name), env=locale)}"


def optimized(place: Place) -> str:
    """``python -OO``: no asserts, no docstrings; and bad input is still refused."""
    return told(place.tested.smoke(place.work("optimized"), env={"PYTHONOPTIMIZE": "2"}))


def strict_warnings(place: Place) -> str:
    """Every warning is an error while sam2fast is imported, in each of its modules that users name."""
    modules = "sam2fast.build_sam, sam2fast.sam2_image_predictor, sam2fast.sam2_video_predictor, sam2fast.cli"
    done = place.tested.run("-W", "error", "-X", "dev", "-c", f"import {modules}", cwd=place.work("strict-warnings"))
    checked(done)
    return done.stderr.strip() or "no warning"


def isolated(place: Place) -> str:
    """``python -I``: neither the folder nor the user's packages nor PYTHON variables."""
    work = place.work("isolated")
    (work / "torch.py").write_text("raise ImportError('of the folder')\n", encoding="utf-8")
    return told(place.tested.smoke(work, "-I"))


def import_time(place: Place) -> str:
    """How long importing takes, in medians: the package alone, torch, and a predictor, which is held against torch."""
    package, torch, predictor = "import sam2fast", "import torch", "from sam2fast import SAM2ImagePredictor"
    found: dict[str, list[tuple[float, int]]] = {package: [], torch: [], predictor: []}
    for _ in range(REPETITIONS):
        for statement, times in found.items():
            done = place.tested.run("-X", "importtime", "-c", statement, cwd=place.work("import-time"))
            checked(done)
            times.append(_imported(done.stderr))
    modules = {statement: max(count for _, count in times) for statement, times in found.items()}
    medians = {statement: statistics.median(ms for ms, _ in times) for statement, times in found.items()}
    expect(modules[package] < LIGHT, f"{package} loads {modules[package]} modules")
    ratio = medians[predictor] / medians[torch]
    said = ", ".join(f"{name}: {medians[name]:.0f} ms, {modules[name]} modules" for name in found)
    expect(ratio <= MOST_OF_TORCH, f"a predictor takes {ratio:.2f} times as long to import as torch: {said}")
    return f"{said}, {ratio:.2f} times torch"


def _imported(report: str) -> tuple[float, int]:
    """Milliseconds and number of modules in what ``-X importtime`` writes, without those of Python's own start."""
    lines = [line for line in report.splitlines() if re.match(r"import time: +\d", line)]
    names = [line.rpartition("|")[2].strip() for line in lines]
    lines = lines[names.index("site") + 1 :]
    return sum(int(line.split()[2]) for line in lines) / 1e3, len(lines)


def _needs(program: str) -> None:
    if shutil.which(program) is None:
        raise Unavailable(f"no {program}")


def _files(folder: Path) -> set[str]:
    return {os.path.join(at, name) for at, _, names in os.walk(folder) for name in names}


ROWS = {
    "read-only": read_only,
    "no-home": no_home,
    "no-network": no_network,
    # The locale C without Python's help, and with strict ASCII streams.
    "ascii-locale": partial(_words, "ascii-locale", ASCII | {"PYTHONIOENCODING": None}),
    "ascii-streams": partial(_words, "ascii-streams", ASCII | {"PYTHONIOENCODING": "ascii:strict"}),
    "latin-locale": latin_locale,
    "optimized": optimized,
    "strict-warnings": strict_warnings,
    "isolated": isolated,
    "import-time": import_time,
}
