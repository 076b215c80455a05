"""The matrix installs the lower bounds of all dependencies, and the tested versions are within the bounds."""

import re

from checkout import ROOT
from packaging.requirements import Requirement
from packaging.version import Version

# Extras first: of a package that both declare, the core's bound counts.
DECLARED = "\n".join((ROOT / name).read_text(encoding="utf-8") for name in ("setup.py", "pyproject.toml"))
# Packages for development.
TOOLS = {
    *("pytest", "pytest-benchmark", "pytest-xdist", "hypothesis", "supervision", "rasterio", "nbmake"),
    *("build", "setuptools", "ruff", "mypy", "import-linter", "codespell", "pre-commit"),
    *("mkdocs-material", "mkdocstrings"),
}


def required() -> dict[str, Requirement]:
    """Returns the requirements of the core and of the extras by package."""
    found = (Requirement(text) for text in re.findall(r"""["']([\w.-]+(?:\[\w+\])?>=[^"';\n]*)""", DECLARED))
    return {requirement.name: requirement for requirement in found if requirement.name not in TOOLS}


def bound_of(requirement: Requirement) -> str:
    return next(s.version for s in requirement.specifier if s.operator == ">=")


def test_oldest_is_what_is_allowed():
    lines = (ROOT / "tests" / "installation" / "oldest.txt").read_text(encoding="utf-8").splitlines()
    oldest = {r.name: r for r in (Requirement(line) for line in lines if not line.startswith("#"))}
    assert oldest.keys() == required().keys()
    for name, requirement in required().items():
        (pin,) = oldest[name].specifier
        bound = Version(bound_of(requirement))
        # The first release of a bound such as 1.11 may be 1.11.1.
        assert Version(pin.version).release[: len(bound.release)] == bound.release, f"{pin} for {requirement}"


def constraints() -> list[Requirement]:
    """The lines of constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def test_tested_versions_are_allowed():
    for pin in constraints():
        for specifier in pin.specifier:
            if specifier.operator == "==" and pin.name in required():
                assert required()[pin.name].specifier.contains(specifier.version), f"{pin} for {required()[pin.name]}"


def test_versions_in_security_md():
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8").partition("## Dependencies")[2]
    excluded, _, rest = text.partition("They do not exclude")
    lower = {name.lower(): Version(bound_of(requirement)) for name, requirement in required().items()}
    assert len(holes(excluded)) == 7
    for name, version in holes(excluded).items():
        assert lower[name] >= version, f"{name} is allowed before {version}"
    pinned = {
        r.name: Version(s.version)
        for r in constraints()
        for s in r.specifier
        if s.operator == "==" and (r.marker is None or r.marker.evaluate({"python_version": "3.11"}))
    }
    assert len(holes(rest)) == 2
    for name, version in holes(rest).items():
        assert lower[name] < version <= pinned[name], f"constraints.txt gives {name} {pinned[name]}, not {version}"
    (read,) = re.findall(r"advisories of ([^.]+) were read", rest)
    names = re.split(r",\s+|\s+and\s+", read.lower())
    assert len(names) > 5 and set(names) <= pinned.keys(), "which versions were read is not said"


def holes(text: str) -> dict[str, Version]:
    """The first version without the vulnerability, by package."""
    return {name.lower(): Version(version) for name, version in re.findall(r"([\w-]+)\s+before\s+([\d.]*\d)", text)}


def test_documents_state_the_versions_of_torch():
    oldest = bound_of(required()["torch"])
    tested = next(r for r in constraints() if str(r).startswith("torch==")).specifier
    (minor,) = (".".join(s.version.split(".")[:2]) for s in tested)
    assert f"needs Linux and torch {oldest} or newer" in (ROOT / "README.md").read_text(encoding="utf-8")
    row = f"| torch | {oldest} or newer; tested with {oldest}, {minor} and "
    assert row in (ROOT / "docs" / "installation.md").read_text(encoding="utf-8")
