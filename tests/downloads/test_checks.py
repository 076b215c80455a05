"""What a file is told to be without loading it."""

import subprocess
import zipfile

import pytest
import torch
from checkpoint_server import make_checkpoint
from safetensors.torch import save

from sam2fast.downloads.checks import check_file, file_digest
from sam2fast.downloads.errors import DamagedError

SAFETENSORS = save({"a": torch.zeros(3), "b": torch.ones(2, 2)}, metadata={"format": "pt"})


@pytest.fixture
def file(tmp_path):
    return tmp_path / "file"


@pytest.mark.parametrize("new_format", [True, False])
def test_what_torch_saves(file, new_format):
    torch.save({"model": {"a": torch.zeros(3)}}, file, _use_new_zipfile_serialization=new_format)
    check_file(file, "a.pt", None, None)


def test_what_safetensors_saves(file):
    for content in (SAFETENSORS, save({})):
        file.write_bytes(content)
        check_file(file, "a.safetensors", len(content), None)


@pytest.mark.parametrize(
    "content",
    [b"", b"12345678", SAFETENSORS[:20], SAFETENSORS[:-1], SAFETENSORS + b"x", b"\x02" + bytes(7) + b"[]", b"<html>"],
    ids=repr,
)
def test_damaged_safetensors(file, content):
    file.write_bytes(content)
    with pytest.raises(DamagedError):
        check_file(file, "a.safetensors", None, None)


def test_an_archive_of_something_else(file):
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(DamagedError, match="a zip file, but no checkpoint"):
        check_file(file, "a.pt", None, None)


@pytest.mark.parametrize("share", [0.001, 0.5, 0.999])
def test_a_truncated_archive(file, share):
    data = make_checkpoint()
    file.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DamagedError, match="cut off or damaged"):
        check_file(file, "a.pt", None, None)


def test_a_packed_archive_with_a_hole(file):
    """torch.save packs nothing, but reads what others have packed."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(range(256)) * 100)
    check_file(file, "a.pt", None, None)
    data = bytearray(file.read_bytes())
    data[60:80] = bytes(20)
    file.write_bytes(data)
    with pytest.raises(DamagedError, match="damaged"):
        check_file(file, "a.pt", None, None)


def test_another_length(file):
    file.write_bytes(b"123")
    with pytest.raises(DamagedError, match="has 3 bytes instead of 4"):
        check_file(file, "config.json", 4, None)


def test_hashes_are_those_of_the_tools(file):
    file.write_bytes(b"hello\n" * 500_000)
    sha256 = subprocess.run(["sha256sum", file], capture_output=True, text=True, check=True).stdout.split()[0]
    git = subprocess.run(["git", "hash-object", file], capture_output=True, text=True, check=True).stdout.strip()
    assert file_digest(file, sha256) == sha256
    assert file_digest(file, git) == git
