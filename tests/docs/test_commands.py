"""The commands of the documents, in blocks and sentences, are parsed by their programs without running."""

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path

import pytest
import yaml
from document_blocks import ROOT, all_spans, blocks_of
from document_commands import (
    Line,
    WrongCommandError,
    check_fragment,
    line_of,
    lines_of,
    make_targets,
    parse_sam2fast,
    parse_script,
    setup_arguments,
)

from sam2fast.config import shipped_recipes
from sam2fast.training.config import load_training_config

LINES = [line for block in blocks_of("shell") for line in lines_of(block)]
SPANS = [(span, line) for span in all_spans() if (line := line_of(span)) is not None]

# Code in sentences that only looks like a command: columns of tables, and parts of the original.
NO_COMMANDS = {
    "sam2fast fast": "bench/README.md",
    "sam2fast compiled": "bench/README.md",
    "python tools/vos_inference.py": "docs/vos.md",
    "pip install": "docs/serve.md",
}
# Packages that `pip install` may name besides this one: optional tools.
OTHER_PACKAGES = {"pre-commit", "bitsandbytes", "jupyterlab", "numpy", "pillow", "onnxruntime"}


def of_program(program: str) -> list[Line]:
    return [line for line in chain(LINES, (line for _, line in SPANS)) if line.program == program and _is_one(line)]


def _is_one(line: Line) -> bool:
    return NO_COMMANDS.get(line.text) != line.where.partition(":")[0]


def check_all(lines: Sequence[Line], check: Callable[[Line], None]) -> None:
    """Reports all errors, each with its document and line."""
    found = []
    for line in lines:
        try:
            check(line)
        except (ValueError, FileNotFoundError, AssertionError) as error:
            found.append(f"{line.where}: `{line.text}`: {error}")
    if found:
        pytest.fail("\n".join(found), pytrace=False)


def test_exceptions_still_occur():
    there = {(line.text, line.where.partition(":")[0]) for _, line in SPANS}
    assert set(NO_COMMANDS.items()) <= there


def test_every_line_has_a_check():
    checked = {
        "sam2fast",
        "make",
        "pip",
        "python",
        "docker",
        "curl",
        "torchrun",
        "pre-commit",
        "jupyter",
        "python3",
        ".",
    }
    assert {line.program for line in LINES} <= checked
    assert len(LINES) > 80 and len(SPANS) > 80


def test_the_environment_is_that_of_make():
    assert {" ".join(line.words) for line in of_program(".")} == {". .venv/bin/activate"}
    assert {" ".join(line.words) for line in of_program("python3")} == {"python3 -m venv .venv"}
    assert "VENV ?= .venv\n" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_sam2fast_in_blocks(stage):
    """Some options must name existing folders."""
    lines = [line for line in LINES if line.program == "sam2fast"]
    assert len(lines) > 50
    check_all(lines, lambda line: parse_sam2fast(line.words[1:]))


def test_sam2fast_in_sentences():
    """Sentences often name partial commands."""
    lines = [line for _, line in SPANS if line.program == "sam2fast" and _is_one(line)]
    assert len(lines) > 20
    check_all(lines, lambda line: check_fragment(line.words[1:]))


def test_training_commands_compose():
    """Every override fits its recipe."""
    names, seen = shipped_recipes(), []

    def compose(line: Line) -> None:
        told = parse_sam2fast(line.words[1:]).params
        if told["config"] in names:
            seen.append(told["config"])
            load_training_config(told["config"], told["overrides"])

    lines = [line for line in LINES if line.words[:2] == ("sam2fast", "train")]
    check_all(lines, compose)
    assert len(set(seen)) >= 5


def test_make_targets():
    targets, variables = make_targets()

    def check(line: Line) -> None:
        asked = [word for word in line.words[1:] if "=" not in word]
        given = {*line.environment, *(word.partition("=")[0] for word in line.words[1:] if "=" in word)}
        assert asked and set(asked) <= targets, f"no target {set(asked) - targets}"
        assert given <= variables, f"nothing reads {given - variables}"

    lines = of_program("make")
    assert len(lines) > 50
    check_all(lines, check)
    # make itself must accept each target, in a dry run.
    assert shutil.which("make")
    asked = {word for line in lines for word in line.words[1:] if "=" not in word}
    done = subprocess.run(["make", "-n", *sorted(asked)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_pip_installs_existing_extras():
    extras = setup_arguments()["extras_require"]

    def check(line: Line) -> None:
        if line.words[1:] == ("uninstall", "sam2fast"):
            return
        assert line.words[1] == "install" and len(line.words) > 2
        arguments = list(line.words[2:])
        if arguments[0] == "-c":
            assert (ROOT / arguments[1]).is_file()
            arguments = arguments[2:]
        for name in arguments:
            found = re.fullmatch(r"(\.|sam2fast)(?:\[([a-z,-]+)\])?", name)
            assert found or name in OTHER_PACKAGES, f"{name} is neither this package nor a known one"
            unknown = set(found[2].split(",")) - set(extras) if found and found[2] else set()
            assert not unknown, f"no extra {unknown}"

    lines = of_program("pip")
    assert len(lines) > 10
    check_all(lines, check)
    assert (ROOT / ".pre-commit-config.yaml").is_file()
    assert [line.words for line in of_program("pre-commit")] == [("pre-commit", "install")]


def test_scripts_accept_their_options(monkeypatch):
    """Also scripts that are named without their interpreter."""
    monkeypatch.chdir(ROOT)

    def check(line: Line) -> None:
        first, *rest = line.words[1:]
        if first == "-m":
            assert importlib.util.find_spec(rest[0]), f"no module {rest[0]}"
        elif rest:
            parse_script(Path(first), rest)
        else:
            assert Path(first).is_file(), f"no file {first}"

    lines, names = of_program("python"), re.compile(r"(bench|examples|tests)/[\w/]+\.py ")
    named = [span for span in all_spans() if names.match(span.text)]
    assert len(lines) > 8 and len(named) > 5
    check_all(lines, check)
    check_all([Line(span.where, span.text, ("python", *span.text.split()), {}) for span in named], check)


def test_torchrun_runs_our_command():
    from torch.distributed.run import get_args_parser

    def check(line: Line) -> None:
        at = line.words.index("-m")
        assert line.words[at + 1] == "sam2fast"
        try:
            told = get_args_parser().parse_args(list(line.words[1 : at + 2]))
        except SystemExit:
            raise WrongCommandError("torchrun does not take these options") from None
        assert told.training_script == "sam2fast" and told.module
        parse_sam2fast(line.words[at + 2 :])

    lines = [line for line in LINES if line.program == "torchrun"]
    assert lines
    check_all(lines, check)


def test_jupyter_opens_existing_files():
    for line in of_program("jupyter"):
        assert line.words[1] == "lab" and all((ROOT / path).exists() for path in line.words[2:]), line.where


def test_docker_compose_reads_the_variables():
    compose = (ROOT / "docker-compose.yaml").read_text(encoding="utf-8")
    services = yaml.safe_load(compose)["services"]
    for line in of_program("docker"):
        assert line.words == ("docker", "compose", "up", "--build"), line.where
        assert all(f"${{{name}:-" in compose for name in line.environment), line.where
    assert all((ROOT / service["build"]["dockerfile"]).is_file() for service in services.values())
