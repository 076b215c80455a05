"""Checkpoints of other models and programs: an error names the model or program, and what to do."""

import enum
import json

import pytest
import torch
from checkpoint_files import numbered_weights
from safetensors.torch import save_file

from sam2fast import build_sam2, nano
from sam2fast.checkpoints import CheckpointError, NoConfigError, choose_config, read_checkpoint
from sam2fast.training import checkpointing

QKV = "image_encoder.trunk.blocks.0.attn.qkv"
PEFT = "base_model.model."
LORA = {f"{PEFT}{QKV}.lora_{part}.weight": torch.zeros(2, 2) for part in "AB"}


def unmerged():
    """Returns the state dict of a ``PeftModel`` with one adapter."""
    names = {f"{QKV}.{part}": f"{QKV}.base_layer.{part}" for part in ("weight", "bias")}
    return LORA | {PEFT + names.get(name, name): x for name, x in numbered_weights(nano.CONFIG).items()}


def named(*names):
    return {name: torch.zeros(2) for name in names}


MULTIPLEX = named("tracker.model.sam_mask_decoder.iou_token.weight", "detector.backbone.trunk.pos_embed")
SAM1 = named("image_encoder.blocks.0.norm1.weight", "mask_decoder.iou_token.weight")
REFUSED = {
    "SAM 3.1": (MULTIPLEX, "x.pt has weights of SAM 3.1, which is not supported: use sam3.pt of SAM 3"),
    "SAM 3.1, renamed": (named("interactive_convs.0.weight", "no_mem_embed"), "has weights of SAM 3.1"),
    "SAM 1": (SAM1, "has weights of SAM 1, or a model derived from it"),
    "MobileSAM": (named("image_encoder.patch_embed.seq.0.c.weight"), "has weights of SAM 1, or a model"),
    "SAM 1 of transformers": (named("vision_encoder.layers.0.attn.qkv.bias"), "SAM 1 in transformers' layout"),
    "adapters": (LORA, r"has adapters of peft, without .*load_adapters\(model, FOLDER\)"),
    "adapters and weights": (unmerged(), r"not merged: load merged.pt .*merge_and_unload\(\)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_models(name, tmp_path):
    content, word = REFUSED[name]
    torch.save(content, tmp_path / "x.pt")
    for read in (choose_config, lambda path: build_sam2(nano.CONFIG, path, device="cpu")):
        with pytest.raises(CheckpointError, match=word) as caught:
            read(tmp_path / "x.pt")
        assert "prefix" not in str(caught.value) and not isinstance(caught.value, NoConfigError)


def test_folders_of_other_programs(tmp_path):
    for name, word in {
        "adapter_config.json": "has adapters of peft",
        "zero_to_fp32.py": "is a checkpoint of DeepSpeed",
        ".metadata": r"is a sharded checkpoint of torch.distributed \(FSDP\)",
    }.items():
        folder = tmp_path / name.strip(".")
        folder.mkdir()
        (folder / name).write_text(json.dumps({}))
        with pytest.raises(CheckpointError, match=rf"{folder} {word}"):
            read_checkpoint(folder)
    save_file(LORA, tmp_path / "adapter_config.json/adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="has adapters of peft"):
        read_checkpoint(tmp_path / "adapter_config.json")


class Colour(enum.Enum):
    RED = 1


def test_advice_to_run_code_is_not_repeated(recwarn, tmp_path):
    torch.jit.trace(torch.nn.ReLU(), torch.zeros(1)).save(str(tmp_path / "script.pt"))
    torch.save({"model": {}, "colour": Colour.RED}, tmp_path / "class.pt")
    for name, words in {"script": ("is a TorchScript program", "damaged"), "class": ("contains .*Colour",) * 2}.items():
        for read, word in zip((read_checkpoint, checkpointing.load), words, strict=True):
            with pytest.raises(CheckpointError, match=rf"{name}.pt .*{word}") as caught:
                read(tmp_path / f"{name}.pt")
            assert "In PyTorch" not in str(caught.value) and "to `False`" not in str(caught.value)
