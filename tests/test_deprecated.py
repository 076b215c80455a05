"""Moved names work and warn; removed names, commands and options say what replaces them, in one line."""

import importlib
import json
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from sam2fast import deprecated
from sam2fast.cli.options import removed_option
from sam2fast.config import official_to_ours
from sam2fast.modeling import hiera
from sam2fast.modeling.hiera_block import MultiScaleAttention
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


OLD_NAMES = """
import importlib, json, warnings
from unittest import mock

from sam2fast import deprecated

def found(name):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        return importlib.import_module(name), [str(warning.message) for warning in caught]

said = {}
for old, new in deprecated.MOVED.items():
    ours = importlib.import_module(new)
    module, said[old] = found(old)
    names = [name for name in vars(ours) if not name.startswith("_")]
    assert names and all(getattr(module, name) is getattr(ours, name) for name in names), old
places = {new: old for old, new in deprecated.MOVED.items()}  # there, the module's name gives the warning
for old, new in deprecated.RENAMED.items():
    module, _, name = old.rpartition(".")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        value = getattr(importlib.import_module(places.get(module, module)), name)
    assert value is getattr(importlib.import_module(module), new), old
    assert module in places or f"{old} is now {module}.{new}; " in str(caught[0].message)
print(json.dumps(said))

# Modules of a moved package move with it, and what is patched there takes effect.
warnings.simplefilter("always")
import sam2fast.parallel.runners as old, sam2fast.deploy.parallel.runners as new
from sam2fast.parallel.videos import VideoJob
with mock.patch("sam2fast.parallel.runners.Runner", 1):
    assert new.Runner == 1
assert new.Runner is old.Runner and VideoJob.__module__ == "sam2fast.deploy.parallel.videos"
"""


def test_moved_and_renamed_names_work_and_warn():
    result = subprocess.run([sys.executable, "-c", OLD_NAMES], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    said = json.loads(result.stdout)
    for old, new in deprecated.MOVED.items():
        assert f"{old} is now {new}; the old name will go in sam2fast 0.3" in said[old]

    line = next(n for n, text in enumerate(OLD_NAMES.splitlines(), 1) if "runners as old" in text)
    assert f"<string>:{line}: DeprecationWarning: sam2fast.parallel.runners is now" in result.stderr


def test_a_renamed_attribute_has_its_old_name_with_a_warning():
    rules = MemoryRules(7, 1, -1, True, 16, True, False, custom_reach=9)
    with pytest.warns(DeprecationWarning, match="MemoryRules.own_reach is now custom_reach"):
        assert rules.own_reach == 9


def test_the_attention_of_hiera_has_its_old_name():
    assert hiera.MultiScaleAttention is MultiScaleAttention


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
