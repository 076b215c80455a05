"""File names that this locale cannot decode: in another encoding, or non-ASCII names in an ASCII locale."""

import ast
import io
import os
import sys

import numpy as np
import pytest
import torch
from checkout import ROOT
from PIL import Image

from sam2fast.checkpoints.weight_files import read_file
from sam2fast.cli import main
from sam2fast.config import ConfigError, load_config

# "Größe" in ISO 8859-1, which is invalid UTF-8; Python keeps the bytes as surrogates.
ON_DISK = b"Gr\xf6\xdfe"
NAME = os.fsdecode(ON_DISK)


@pytest.fixture(autouse=True)
def odd_names_exist():
    if sys.platform in ("win32", "darwin") or sys.getfilesystemencoding() != "utf-8":
        pytest.skip("file names are text here")


@pytest.fixture
def masks(tmp_path):
    """A video's masks in the DAVIS layout, in a folder with this name."""
    mask = np.zeros((24, 32), np.uint8)
    mask[4:12, 4:20] = 1
    (tmp_path / "masks" / NAME).mkdir(parents=True)
    for t in range(3):
        Image.fromarray(mask).save(tmp_path / "masks" / NAME / f"{t:05d}.png")
    return tmp_path / "masks"


def test_names_are_written_in_utf_8_and_printed_escaped(masks, tmp_path, monkeypatch):
    """With the strict error handler, the default of stdout in a pipe."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="strict")
    monkeypatch.setattr(sys, "stdout", stream)
    csv = tmp_path / "results.csv"
    arguments = ["evaluate", "--gt", str(masks), "--pred", str(masks), "--csv", str(csv), "--processes", "1"]
    assert not main(arguments, standalone_mode=False)
    assert "Gr%F6%DFe" in csv.read_text(encoding="utf-8") and len(list(tmp_path.iterdir())) == 2
    stream.flush()
    assert b"Gr\\udcf6\\udcdfe" in stream.buffer.getvalue() and stream.errors == "strict"


def test_a_checkpoint_is_read(tmp_path):
    """torch opens a file by the UTF-8 encoding of its name."""
    torch.save({"model": {"weight": torch.arange(3)}}, tmp_path / "plain.pt")
    (tmp_path / "plain.pt").rename(tmp_path / f"{NAME}.pt")
    assert read_file(tmp_path / f"{NAME}.pt")["weight"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("text", ["Größe", "~/写真/Фото 1", "C:\\Données\\un", "a#1; b & c!", NAME])
def test_overrides_take_any_name(text):
    """Hydra's grammar does not accept such letters."""
    assert load_config("nano/sam2fast_nano", [f"+folder={text}"]).folder == text


@pytest.mark.parametrize("text", ["[Größe", "Größe\\", "f(ö)", "é,", "ö=1", "'ä"])
def test_ambiguous_overrides_are_refused(text):
    with pytest.raises(ConfigError, match="nano/sam2fast_nano"):
        load_config("nano/sam2fast_nano", [f"+folder={text}"])


def test_text_files_have_an_encoding():
    """The default would be the locale's."""
    missing = []
    for folder in ("sam2fast", "kernels", "configs"):
        for file in (ROOT / folder).rglob("*.py"):
            content = file.read_bytes()
            if b"_text(" in content or b"open(" in content:
                tree = ast.parse(content)
                missing += [f"{file.relative_to(ROOT)}:{call.lineno}" for call in ast.walk(tree) if _is_vague(call)]
    assert not missing


def _is_vague(call: ast.AST) -> bool:
    """Whether it reads or writes text without saying in what encoding."""
    if not isinstance(call, ast.Call) or any(keyword.arg == "encoding" for keyword in call.keywords):
        return False
    if isinstance(call.func, ast.Attribute) and getattr(call.func.value, "id", "") in ("av", "archive"):
        return False
    called = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    strings = [argument.value for argument in call.args if isinstance(argument, ast.Constant)]
    if called == "open":  # also a method of images, videos and data sets: only a text mode shows that it is a file
        return any(mode in ("r", "w", "a", "x", "r+", "w+", "rt", "wt") for mode in strings)
    return called == "read_text" or (called == "write_text" and len(call.args) == 1)
