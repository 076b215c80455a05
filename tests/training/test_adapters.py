"""Adapters: zero at first, equal when merged, and the only trained parameters."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mini_model import NARROW, OVERRIDES, mini_predictor
from PIL import Image
from safetensors.torch import load_file, save_file
from small_training import assert_same, build, checkpoint_of
from torch import Tensor
from training_pair import batch_of_discs

from sam2fast import nano
from sam2fast.build_sam import build_sam2_video_predictor
from sam2fast.checkpoints import CheckpointError
from sam2fast.sam2_image_predictor import SAM2ImagePredictor
from sam2fast.training.adapters import (
    AdapterConf,
    adapted_layers,
    add_adapters,
    is_adapter,
    load_adapters,
    merge_adapters,
    merged_weights,
    save_adapters,
)
from sam2fast.training.model import SAM2Train

ADAPTERS = "+trainer.model.adapters={rank: 2, alpha: 4, train: [maskmem_tpos_enc]}"
# Also code that reads weights without calling layers.
EVERYWHERE = AdapterConf(2, 4, targets=("image_encoder.*", "memory_attention.*", "sam_mask_decoder.*"))


@pytest.fixture
def model(tmp_path: Path) -> SAM2Train:
    return build(tmp_path).model.eval()


def predicted(model: SAM2Train) -> Tensor:
    """Logits ``(T, O, h, w)`` of tracked masks, and their scores."""
    torch.manual_seed(0)
    frames = model(batch_of_discs(3)).frames
    return torch.cat([x.flatten() for f in frames for x in (*f.masks, *f.ious, *f.object_scores)])


def learn_something(model: SAM2Train) -> None:
    """Random adapters, as if trained."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("training", [False, True])
def test_new_adapters_change_nothing(model: SAM2Train, training: bool) -> None:
    model.train(training)
    before = predicted(model)
    add_adapters(model, AdapterConf(rank=2))
    assert len(adapted_layers(model)) == 16  # two in each of four blocks, eight in the layer of memory attention
    assert torch.equal(predicted(model), before)


def predictor_of(weights: Path, *overrides: str) -> Any:
    return build_sam2_video_predictor(nano.CONFIG, weights, device="cpu", hydra_overrides_extra=list(overrides))


class TestRuns:
    @staticmethod
    def build(folder: Path, base: Path, *more: str) -> Any:
        initial = f"+trainer.checkpoint.initialize_from={base}"
        return build(folder, ADAPTERS, initial, "scratch.updates=2", *more)

    @pytest.fixture
    def base(self, tmp_path: Path) -> Path:
        """Initial weights without adapters."""
        weights = build(tmp_path, "trainer.seed_value=7").model.state_dict()
        torch.save({"model": weights}, tmp_path / "base.pt")
        return tmp_path / "base.pt"

    def test_a_stopped_run_goes_on_bitwise(self, base: Path, tmp_path: Path) -> None:
        self.build(tmp_path / "calm", base).run()
        stopped = self.build(tmp_path / "stopped", base)
        stopped.run(lambda: stopped.steps == 1)
        self.build(tmp_path / "stopped", base).run()
        files = [tmp_path / name / "checkpoints" for name in ("calm", "stopped")]
        assert_same(*(checkpoint_of(tmp_path / name)["model"] for name in ("calm", "stopped")))
        calm, other = (load_file(folder / "adapters/adapter_model.safetensors") for folder in files)
        assert_same(calm, other)

        # Initial weights plus adapters are the merged model; nothing else has changed.
        given = torch.load(base, weights_only=True)["model"]
        merged = torch.load(files[0] / "merged.pt", weights_only=True)["model"]
        assert merged.keys() == given.keys()
        changed = {name for name in given if not torch.equal(given[name], merged[name])}
        predictor = predictor_of(base, *NARROW)
        conf = load_adapters(predictor, files[0] / "adapters")
        layers = adapted_layers(predictor).keys()
        assert (conf.r, conf.lora_alpha, {*conf.target_modules}) == (2, 4, layers)
        assert changed == {f"{layer}.weight" for layer in layers} | {"maskmem_tpos_enc"} and len(layers) == 16
        merge_adapters(predictor)
        found = predictor.state_dict()
        assert_same({name: found[name] for name in merged}, merged)
        predictor_of(files[0] / "merged.pt", *NARROW)
        with pytest.raises(CheckpointError, match="lora_A"):
            predictor_of(files[0] / "checkpoint.pt", *NARROW)


class TestPredictors:
    """Loaded adapters, adapters merged in the predictor, and merged weights are the same model."""

    @pytest.fixture
    def files(self, tmp_path: Path) -> tuple[Path, Path, Path]:
        """Weights, adapters and merged weights."""
        base, adapters, merged = (tmp_path / name for name in ("base.pt", "adapters", "merged.pt"))
        predictor = mini_predictor()
        torch.save({"model": predictor.state_dict()}, base)
        add_adapters(predictor, EVERYWHERE)
        learn_something(predictor)
        save_adapters(predictor, EVERYWHERE, adapters)
        state = {name: value.clone() for name, value in predictor.state_dict().items()}
        torch.save({"model": merged_weights(state, EVERYWHERE)}, merged)
        return base, adapters, merged

    def test_they_are_one_model(self, files: tuple[Path, Path, Path]) -> None:
        base, adapters, merged = files
        plain, adapted = (predictor_of(base, *OVERRIDES) for _ in range(2))
        before = self.everything(plain)
        load_adapters(adapted, adapters)
        found = self.everything(adapted)
        # Also a model that has predicted and cached prepared weights.
        load_adapters(plain, adapters)
        merge_adapters(plain)
        assert not adapted_layers(plain) and not any(p.requires_grad for p in plain.parameters())
        for other in (plain, predictor_of(merged, *OVERRIDES)):
            torch.testing.assert_close(self.everything(other), found, rtol=1e-4, atol=1e-4)
        assert (found - before).abs().max() > 0.1

    @staticmethod
    @torch.inference_mode()
    def everything(predictor: Any) -> Tensor:
        """Logits of a click on an image, and of the two frames of a video after it."""
        images = np.random.default_rng(0).integers(0, 256, (3, 96, 128, 3), dtype=np.uint8)
        click = {"point_coords": np.array([[60.0, 40.0]]), "point_labels": np.array([1])}
        image = SAM2ImagePredictor(predictor)
        image.set_image(images[0])
        low = image.predict(**click, multimask_output=True)[2]
        state = predictor.init_state([Image.fromarray(p) for p in images])
        predictor.add_new_points_or_box(state, 0, 1, click["point_coords"], click["point_labels"])
        logits = [masks for _, _, masks in predictor.propagate_in_video(state)]
        return torch.cat([torch.from_numpy(low).flatten(), torch.cat(logits).flatten()])


class TestFaults:
    @pytest.mark.parametrize(
        ("conf", "message"),
        [
            ({"rank": 0}, "rank and alpha must be positive, got 0"),
            ({"targets": ["image_encoder.neck.*"]}, r"no linear layer is named 'image_encoder\.neck\.\*'"),
            ({"train": ["decoder.*"]}, r"no parameter is named 'decoder\.\*'"),
        ],
    )
    def test_invalid_settings(self, model: SAM2Train, conf: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            add_adapters(model, AdapterConf(**conf))
        assert not adapted_layers(model) and all(p.requires_grad for p in model.parameters())
        add_adapters(model, AdapterConf(rank=2))
        with pytest.raises(ValueError, match="has one already"):
            add_adapters(model, AdapterConf(rank=2))

    def test_files_of_something_else(self, model: SAM2Train, tmp_path: Path) -> None:
        folder = tmp_path / "folder"
        add_adapters(model, AdapterConf(rank=2, train=["maskmem_tpos_enc"]))
        learn_something(model)
        save_adapters(model, AdapterConf(rank=2), folder)
        learnt = {name: value.detach().clone() for name, value in model.named_parameters() if is_adapter(name)}
        weights = folder / "adapter_model.safetensors"
        tensors, whole = load_file(weights), weights.read_bytes()
        with pytest.raises(CheckpointError, match="has adapters already"):
            load_adapters(model, folder)
        merge_adapters(model)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        learning = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        one = "base_model.model.image_encoder.trunk.blocks.0.attn.qkv.lora_B.weight"
        for content, message in (
            ({**tensors, one: tensors[one].T.contiguous()}, "1 names do not fit, such as .*0.attn.qkv"),
            ({**tensors, "neck.lora_B.weight": torch.zeros(1)}, "1 names do not fit, such as neck"),
        ):
            save_file(content, weights)
            with pytest.raises(CheckpointError, match=message):
                load_adapters(model, folder)
        weights.write_bytes(whole[:1000])
        with pytest.raises(CheckpointError, match="adapter_model.safetensors is damaged or no file of adapters"):
            load_adapters(model, folder)
        weights.write_bytes(whole)
        config = json.loads((folder / "adapter_config.json").read_text())
        for changed, message in (
            ({"peft_type": "NONE"}, "damaged or no file of adapters"),
            ({"use_dora": True}, "another model: 16 names do not fit, such as .*lora_magnitude_vector"),
            ({"r": None}, "another model"),
            ({"r": 3}, "32 names do not fit"),
            ({"target_modules": ["neck"]}, "another model: Target module FpnNeck"),
        ):
            (folder / "adapter_config.json").write_text(json.dumps({**config, **changed}))
            with pytest.raises(CheckpointError, match=message):
                load_adapters(model, folder)
        (folder / "adapter_config.json").unlink()
        with pytest.raises(FileNotFoundError, match="adapter_config.json"):
            load_adapters(model, folder)
        assert_same(dict(model.state_dict()), before)
        assert learning == [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        assert not adapted_layers(model) and not hasattr(model, "peft_config")
        (folder / "adapter_config.json").write_text(json.dumps(config))
        load_adapters(model, folder)
        assert len(adapted_layers(model)) == 16 and not any(p.requires_grad for p in model.parameters())
        assert_same({name: model.get_parameter(name).detach() for name in learnt}, learnt)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("raise ModuleNotFoundError(name='peft')", r"need peft: .*pip install '\.\[adapters\]'$"),
        ("import nowhere", "peft cannot be imported: ModuleNotFoundError: No module named 'nowhere'"),
        (
            "try:\n    1 / 0\nexcept ZeroDivisionError as error:\n    raise RuntimeError('many lines') from error",
            "peft cannot be imported: ZeroDivisionError: division by zero",
        ),
    ],
)
def test_peft_that_cannot_be_imported(lines: str, message: str, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "peft.py").write_text(lines)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "peft", raising=False)
    with pytest.raises(ImportError, match=message):
        add_adapters(torch.nn.Linear(2, 2), AdapterConf())
