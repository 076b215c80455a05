"""``sam2fast --install-completion``, and what the scripts ask the command for."""

import os
import shutil
import subprocess
import sys

import pytest
from commands import ends


def test_a_home_that_is_no_folder(run, monkeypatch):
    monkeypatch.setenv("HOME", os.devnull)
    monkeypatch.setenv("SHELL", "bash")
    ends(run("--install-completion"), 1, "Not a directory")


@pytest.mark.parametrize(
    ("shell", "file", "says"),
    [
        ("/bin/bash", ".local/share/bash-completion/completions/sam2fast", "bash-completion"),
        ("/usr/bin/zsh", ".zfunc/_sam2fast", "fpath+=~/.zfunc"),
        ("fish", ".config/fish/completions/sam2fast.fish", "written to"),
    ],
)
def test_scripts(run, tmp_path, monkeypatch, shell, file, says):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SHELL", shell)
    result = run("--install-completion")
    assert result.exit_code == 0 and says in result.stdout and str(tmp_path / file) in result.stdout
    script = (tmp_path / file).read_text()
    assert "_SAM2FAST_COMPLETE" in script and "sam2fast" in script
    if shutil.which(os.path.basename(shell)):
        subprocess.run([os.path.basename(shell), "-n", tmp_path / file], check=True)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("sam2fast evaluate", {"plain,evaluate", "plain,evaluate-images"}),
        ("sam2fast segment --boxes", {"plain,--boxes-from"}),
    ],
)
def test_answers(words, expected):
    """As the script for bash asks."""
    asked = {"_SAM2FAST_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    command = [sys.executable, "-c", "from sam2fast.cli import main; main(prog_name='sam2fast')"]
    done = subprocess.run(command, env={**os.environ, **asked}, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == expected
