"""The lower bounds of setup.py are those that the matrix installs, and what is tested together is within the bounds."""

import re

from checkout import ROOT
from packaging.requirements import Requirement
from packaging.version import Version

SETUP = (ROOT / "setup.py").read_text(encoding="utf-8")
# For those who change the package.
TOOLS = {
    *("pytest", "pytest-benchmark", "pytest-xdist", "hypothesis", "supervision", "build", "setuptools"),
    *("ruff", "mypy", "pre-commit"),
}


def required() -> dict[str, Requirement]:
    """What setup.py names with a lower bound, by name."""
    found = (Requirement(text) for text in re.findall(r"""["']([\w.-]+(?:\[\w+\])?>=[^"';\n]*)""", SETUP))
    return {requirement.name: requirement for requirement in found if requirement.name not in TOOLS}


def test_oldest_is_what_setup_allows():
    lines = (ROOT / "tests" / "installation" / "oldest.txt").read_text(encoding="utf-8").splitlines()
    oldest = {r.name: r for r in (Requirement(line) for line in lines if not line.startswith("#"))}
    assert oldest.keys() == required().keys()
    for name, requirement in required().items():
        (pin,) = oldest[name].specifier
        bound = next(Version(s.version) for s in requirement.specifier if s.operator == ">=")
        # The first release of a bound such as 1.11 may be 1.11.1.
        assert Version(pin.version).release[: len(bound.release)] == bound.release, f"{pin} for {requirement}"


def test_what_is_tested_is_what_setup_allows():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    for pin in pins:
        for specifier in pin.specifier:
            if specifier.operator == "==" and pin.name in required():
                assert required()[pin.name].specifier.contains(specifier.version), f"{pin} for {required()[pin.name]}"
