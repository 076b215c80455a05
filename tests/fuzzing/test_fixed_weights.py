"""Checkpoints that the fuzzer found: all are refused as documented."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from sam2fast.checkpoints import CheckpointError, choose_config, load_checkpoint, read_checkpoint
from sam2fast.checkpoints.converting import convert_checkpoint
from sam2fast.training.checkpointing import load as load_training_checkpoint

PLAIN = torch.arange(6.0).reshape(2, 3)


def program(text: bytes) -> bytes:
    """A checkpoint in the format before 1.6 with a program for the pickle machine."""
    return pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2) + text


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(program(b"\x80\x02K\x01Q."), id="storage that is a number"),
        pytest.param(program(b"\x80\x02X\x04"), id="ends during a length"),
        pytest.param(program(b"\x80\x02R."), id="call of nothing"),
        pytest.param(program(b"\x80\x02" + b"(" * 3000 + b"t" * 3000 + b"."), id="deep"),
    ],
)
def test_checkpoints(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "weights.pt"
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match="weights.pt"):
        read_checkpoint(file)
    with pytest.raises(CheckpointError, match="weights.pt"):
        load_training_checkpoint(file)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param({1: PLAIN}, id="numbers for names"),
        pytest.param({"model": {("a", "b"): PLAIN}}, id="tuples for names"),
        pytest.param({"weight": PLAIN.to_sparse()}, id="sparse"),
        pytest.param({"weight": torch.empty(2, 3, device="meta")}, id="without values"),
        pytest.param({"weight": PLAIN.to(torch.complex64)}, id="complex"),
        pytest.param({"weight": torch.zeros(1).expand(1 << 40)}, id="4 TiB of one number"),
    ],
)
def test_weights_that_no_model_has(tmp_path: Path, content: Any) -> None:
    file = tmp_path / "weights.pt"
    torch.save(content, file)
    for read in (read_checkpoint, choose_config):
        with pytest.raises(CheckpointError, match="weights.pt"):
            read(file)
    model = torch.nn.Linear(3, 2, bias=False)
    before = model.weight.detach().clone()
    with pytest.raises(CheckpointError, match="weights.pt"):
        load_checkpoint(model, file, torch.device("cpu"), allow_image_only=True)
    assert torch.equal(model.weight, before)


def test_both_matrices_of_positions_come_from_one_file(tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    place = "shared_image_embedding.positional_embedding"
    torch.save({place: PLAIN, f"prompt_encoder.{place.replace('_image', '')}": PLAIN + 1}, file)
    for read in (read_checkpoint, choose_config):
        with pytest.raises(CheckpointError, match=r"weights.pt.*differ"):
            read(file)


@pytest.mark.parametrize("name", ["", "x" * 5000])
def test_parts_of_an_index(tmp_path: Path, name: str) -> None:
    file = tmp_path / "model.safetensors.index.json"
    file.write_text(json.dumps({"weight_map": {"weight": name}}))
    with pytest.raises((CheckpointError, FileNotFoundError)):
        read_checkpoint(file)


def test_weights_of_eight_bits_are_converted(tmp_path: Path) -> None:
    torch.save({"weight": PLAIN.to(torch.float8_e4m3fn)}, tmp_path / "weights.pt")
    convert_checkpoint(tmp_path / "weights.pt", tmp_path / "out.safetensors", "safetensors", dtype=torch.float16)
    assert torch.equal(read_checkpoint(tmp_path / "out.safetensors")["weight"], PLAIN.half())


def test_a_machine_without_memory_is_not_a_damaged_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"weight": PLAIN}, tmp_path / "weights.pt")
    monkeypatch.setattr(torch, "load", Mock(side_effect=MemoryError))
    with pytest.raises(MemoryError):
        read_checkpoint(tmp_path / "weights.pt")


def test_a_negative_offset_is_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged archive makes torch seek there; other disk errors are not blamed on the checkpoint."""

    def fail(number: int) -> Callable[..., Any]:
        def read(*arguments: Any, **named: Any) -> Any:
            raise OSError(number, "injected")

        return read

    monkeypatch.setattr(torch, "load", fail(22))
    with pytest.raises(CheckpointError):
        load_training_checkpoint(tmp_path / "checkpoint.pt")
    monkeypatch.setattr(torch, "load", fail(5))
    with pytest.raises(OSError, match="injected"):
        load_training_checkpoint(tmp_path / "checkpoint.pt")
