"""Memory attention trained from scratch: its initialisation, and initial weights without it."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from small_training import build

from sam2fast.checkpoints import CheckpointError


def test_memory_attention_starts_as_the_identity(tmp_path: Path) -> None:
    attention = build(tmp_path, "+trainer.model.identity_memory=0.25").model.memory_attention
    C, C_mem = attention.d_model, attention.layers[0].cross_attn_image.k_proj.in_features
    features, position, memory = torch.randn(16, 2, C), torch.randn(16, 2, C), torch.randn(16, 2, C_mem)
    out = attention(features, memory, position, memory)
    torch.testing.assert_close(out, 0.25 * F.layer_norm(features + 0.1 * position, (C,)))
    out.square().sum().backward()
    for layer in attention.layers:
        for last in (layer.self_attn.out_proj, layer.cross_attn_image.out_proj, layer.linear2):
            assert last.weight.grad.abs().max() > 0, "what starts at zero cannot learn"


class TestMissingWeights:
    @pytest.fixture
    def image_only(self, tmp_path: Path) -> Path:
        state = build(tmp_path / "given", "trainer.seed_value=5").model.state_dict()
        lacking = ("memory_", "mask_downsample", "obj_ptr", "maskmem", "no_mem_pos", "no_obj")
        path = tmp_path / "image.pt"
        torch.save({"model": {name: value for name, value in state.items() if not name.startswith(lacking)}}, path)
        return path

    def test_stay_as_they_were_drawn(self, image_only: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        start = f"+trainer.checkpoint.initialize_from={image_only}"
        trainer = build(tmp_path / "run", start, "+trainer.checkpoint.missing_weights=draw")
        drawn = {name: value.clone() for name, value in trainer.model.state_dict().items()}
        trainer._start()
        given = torch.load(image_only, weights_only=True)["model"]
        for name, value in trainer.model.state_dict().items():
            assert torch.equal(value, given.get(name, drawn[name])), name
        assert 0 < len(given) < len(drawn)
        assert "has no weights for" in caplog.text and "memory_attention" in caplog.text

    def test_are_an_error_by_default(self, image_only: Path, tmp_path: Path) -> None:
        trainer = build(tmp_path / "run", f"+trainer.checkpoint.initialize_from={image_only}")
        with pytest.raises(CheckpointError, match="It lacks those of memory_attention"):
            trainer.run()

    def test_weights_of_another_model_are_an_error(self, image_only: Path, tmp_path: Path) -> None:
        content = torch.load(image_only, weights_only=True)
        content["model"]["other"] = torch.zeros(1)
        torch.save(content, image_only)
        start = f"+trainer.checkpoint.initialize_from={image_only}"
        trainer = build(tmp_path / "run", start, "+trainer.checkpoint.missing_weights=draw")
        before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
        with pytest.raises(CheckpointError, match="1 unexpected: other"):
            trainer.run()
        assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())
