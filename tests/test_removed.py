"""Names, commands and options that are gone say what replaces them, in one line."""

import importlib

import click
import pytest
from click.testing import CliRunner

from sam2fast import removed
from sam2fast.cli.options import removed_option


@pytest.mark.parametrize("name", sorted(removed.REMOVED))
def test_a_removed_name_says_what_replaces_it(name):
    module, _, attribute = name.rpartition(".")
    package = importlib.import_module(module)
    with pytest.raises(ImportError) as failed:
        getattr(package, attribute)
    assert removed.REMOVED[name] in str(failed.value) and "\n" not in str(failed.value)
    assert attribute not in dir(package)


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
