"""Moved names work and warn; removed names, commands and options say what replaces them, in one line."""

import importlib
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from sam2fast import deprecated
from sam2fast.cli.options import removed_option
from sam2fast.config import official_to_ours
from sam2fast.modeling.memory_selection import MemoryRules
from sam2fast.training.config import TRAINING_TARGETS


@pytest.mark.parametrize("name", sorted(deprecated.REMOVED))
def test_a_removed_name_says_what_replaces_it(name):
    module, _, attribute = name.rpartition(".")
    package = importlib.import_module(module)
    with pytest.raises(ImportError) as failed:
        getattr(package, attribute)
    assert "was removed in sam2fast 0.2" in str(failed.value)
    assert deprecated.REMOVED[name] in str(failed.value) and "\n" not in str(failed.value)
    assert attribute not in dir(package)


def run_python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-W", "always::DeprecationWarning", "-c", code], capture_output=True, text=True
    )


@pytest.mark.parametrize(("old", "new"), sorted(deprecated.MOVED.items()))
def test_a_moved_module_is_imported_by_its_old_name_with_a_warning(old, new):
    code = f"""
import importlib
old, new = importlib.import_module({old!r}), importlib.import_module({new!r})
names = [name for name in vars(new) if not name.startswith("_")]
assert names and all(getattr(old, name) is getattr(new, name) for name in names)
"""
    result = run_python(code)
    assert result.returncode == 0, result.stderr
    assert f"DeprecationWarning: {old} is now {new}; the old name will go in sam2fast 0.3" in result.stderr


def test_modules_of_a_moved_package_move_with_it_and_what_is_patched_there_takes_effect():
    code = """
from unittest import mock
import sam2fast.parallel.runners as old, sam2fast.deploy.parallel.runners as new
from sam2fast.parallel.videos import VideoJob
with mock.patch("sam2fast.parallel.runners.Runner", 1):
    assert new.Runner == 1
assert new.Runner is old.Runner and VideoJob.__module__ == "sam2fast.deploy.parallel.videos"
"""
    result = run_python(code)
    assert result.returncode == 0, result.stderr
    assert "<string>:3: DeprecationWarning: sam2fast.parallel.runners is now" in result.stderr


@pytest.mark.parametrize(("old", "new"), sorted(deprecated.RENAMED.items()))
def test_a_renamed_function_or_class_has_its_old_name_with_a_warning(old, new):
    module, _, name = old.rpartition(".")
    moved_from = [path for path, now in deprecated.MOVED.items() if now == module]
    code = f"""
import importlib
old, new = importlib.import_module({(moved_from or [module])[0]!r}), importlib.import_module({module!r})
assert old.{name} is new.{new}
"""
    result = run_python(code)
    assert result.returncode == 0, result.stderr
    assert "DeprecationWarning: " in result.stderr


def test_a_renamed_attribute_has_its_old_name_with_a_warning():
    rules = MemoryRules(7, 1, -1, True, 16, True, False, custom_reach=9)
    with pytest.warns(DeprecationWarning, match="MemoryRules.own_reach is now custom_reach"):
        assert rules.own_reach == 9


def test_targets_of_configurations_that_moved_are_found():
    with pytest.warns(DeprecationWarning, match="is now sam2fast.training.losses.AtResolution"):
        assert official_to_ours("sam2fast.training.resolution.AtResolution") in TRAINING_TARGETS


@pytest.mark.parametrize("name", ["sam2fast.parallel.nothing", "sam2fast.nothing"])
def test_a_module_that_never_was_is_not_found_under_an_old_name(name):
    with pytest.raises(ModuleNotFoundError, match=name):
        importlib.import_module(name)


def test_a_removed_module_says_what_replaces_it():
    with pytest.raises(
        ImportError, match="sam2fast.environment was removed in sam2fast 0.2; use `sam2fast env --json`"
    ):
        importlib.import_module("sam2fast.environment")


def test_a_removed_option_says_what_replaces_it():
    @click.command()
    @removed_option("--old", "use --new")
    @removed_option("--older", "nothing is needed", is_flag=True)
    def command():
        click.echo("ran")

    def run(*words):
        return CliRunner().invoke(command, words)

    assert run().output == "ran\n" and "--old" not in run("--help").output
    for words, instead in ((["--old", "3"], "--old was removed in sam2fast 0.2; use --new"),
                           (["--older"], "--older was removed in sam2fast 0.2; nothing is needed")):  # fmt: skip
        result = run(*words)
        assert result.exit_code == 2 and instead in result.output and "ran" not in result.output
