"""Adapters: zero at first, equal when merged, and the only trained parameters."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mini_model import NARROW, OVERRIDES, mini_predictor
from PIL import Image
from safetensors.torch import load_file, save_file
from small_training import assert_same, build, checkpoint_of
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

ADAPTERS = "+trainer.model.adapters={rank: 2, alpha: 4, train: [maskmem_tpos_enc]}"
# Also code that reads weights without calling layers.
EVERYWHERE = AdapterConf(2, 4, targets=("image_encoder.*", "memory_attention.*", "sam_mask_decoder.*"))


@pytest.fixture
def model(tmp_path):
    return build(tmp_path).model.eval()


def predicted(model):
    """Logits ``(T, O, h, w)`` of tracked masks, and their scores."""
    torch.manual_seed(0)
    frames = model(batch_of_discs(3)).frames
    return torch.cat([x.flatten() for f in frames for x in (*f.masks, *f.ious, *f.object_scores)])


def learn_something(model):
    """Random adapters, as if trained."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("training", [False, True])
def test_new_adapters_change_nothing(model, training):
    model.train(training)
    before = predicted(model)
    add_adapters(model, AdapterConf(rank=2))
    assert len(adapted_layers(model)) == 16  # two in each of four blocks, eight in the layer of memory attention
    assert torch.equal(predicted(model), before)


def predictor_of(weights, *overrides):
    return build_sam2_video_predictor(nano.CONFIG, weights, device="cpu", hydra_overrides_extra=list(overrides))


def test_a_stopped_run_goes_on_bitwise(tmp_path):
    base = tmp_path / "base.pt"
    given = build(tmp_path, "trainer.seed_value=7").model.state_dict()
    torch.save({"model": given}, base)

    def run(name):
        return build(tmp_path / name, ADAPTERS, f"+trainer.checkpoint.initialize_from={base}", "scratch.updates=2")

    run("calm").run()
    stopped = run("stopped")
    stopped.run(lambda: stopped.steps == 1)
    run("stopped").run()
    files = [tmp_path / name / "checkpoints" for name in ("calm", "stopped")]
    assert_same(*(checkpoint_of(tmp_path / name)["model"] for name in ("calm", "stopped")))
    assert_same(*(load_file(folder / "adapters/adapter_model.safetensors") for folder in files))

    # Initial weights plus adapters are the merged model; nothing else has changed.
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
    with pytest.raises(CheckpointError, match=r"load merged\.pt of the same training"):
        predictor_of(files[0] / "checkpoint.pt", *NARROW)


def test_adapters_of_frozen_layers_learn(tmp_path):
    """As in the recipe for one's own masks, whose image encoder is frozen."""
    trainer = build(tmp_path, ADAPTERS, "+trainer.model.freeze_image_encoder=true", "scratch.updates=2")
    trainer.run()
    learnt = {name: p for name, p in trainer.model.named_parameters() if ".lora_B." in name}
    in_encoder = [name for name in learnt if name.startswith("image_encoder.")]
    assert in_encoder and all(learnt[name].any() for name in in_encoder)
    assert not any(
        p.requires_grad for name, p in trainer.model.image_encoder.named_parameters() if ".lora_" not in name
    )


@torch.inference_mode()
def everything(predictor):
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


def test_loaded_and_merged_adapters_are_one_model(tmp_path):
    """Loaded adapters, adapters merged in the predictor, and merged weights."""
    base, adapters, merged = (tmp_path / name for name in ("base.pt", "adapters", "merged.pt"))
    predictor = mini_predictor()
    torch.save({"model": predictor.state_dict()}, base)
    add_adapters(predictor, EVERYWHERE)
    learn_something(predictor)
    save_adapters(predictor, EVERYWHERE, adapters)
    torch.save({"model": merged_weights(predictor.state_dict(), EVERYWHERE)}, merged)

    plain, adapted = (predictor_of(base, *OVERRIDES) for _ in range(2))
    before = everything(plain)
    load_adapters(adapted, adapters)
    found = everything(adapted)
    # Also a model that has predicted and cached prepared weights.
    load_adapters(plain, adapters)
    merge_adapters(plain)
    assert not adapted_layers(plain) and not any(p.requires_grad for p in plain.parameters())
    for other in (plain, predictor_of(merged, *OVERRIDES)):
        torch.testing.assert_close(everything(other), found, rtol=1e-4, atol=1e-4)
    assert (found - before).abs().max() > 0.1


@pytest.mark.parametrize(
    ("conf", "word"),
    [
        ({"rank": 0}, "rank"),
        ({"targets": ["image_encoder.neck.*"]}, r"no linear layer .*'image_encoder\.neck"),
        ({"train": ["decoder.*"]}, "no parameter .*'decoder"),
        ({}, "already has an adapter"),
    ],
)
def test_refused_settings(model, conf, word):
    if not conf:
        add_adapters(model, AdapterConf(rank=2))
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    with pytest.raises(ValueError, match=word):
        add_adapters(model, AdapterConf(**conf))
    assert before == {name: p.requires_grad for name, p in model.named_parameters()}


WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
LAYER = "base_model.model.image_encoder.trunk.blocks.0.attn.qkv.lora_B.weight"


def edit_weights(folder, name, change):
    tensors = load_file(folder / WEIGHTS)
    save_file({**tensors, name: change(tensors.get(name))}, folder / WEIGHTS)


def edit_config(folder, **changed):
    (folder / CONFIG).write_text(json.dumps({**json.loads((folder / CONFIG).read_text()), **changed}))


FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "another shape": (lambda f: edit_weights(f, LAYER, lambda x: x.T.contiguous()), "1 names .*0.attn.qkv"),
    "another layer": (lambda f: edit_weights(f, "neck.lora_B.weight", lambda _: torch.zeros(1)), "1 names .*neck"),
    "cut off": (lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:1000]), "is truncated, damaged"),
    "kind": (lambda f: edit_config(f, peft_type="NONE"), f"{CONFIG} is damaged"),
    "dora": (lambda f: edit_config(f, use_dora=True), "16 names .*lora_magnitude_vector"),
    "no rank": (lambda f: edit_config(f, r=None), "another model"),
    "rank": (lambda f: edit_config(f, r=3), "32 names"),
    "no linear layer": (lambda f: edit_config(f, target_modules=["neck"]), "another model: .*FpnNeck"),
    "missing": (lambda f: (f / CONFIG).unlink(), CONFIG),
}


def test_refused_files(model, tmp_path):
    """Nothing is changed by files of something else."""
    whole = tmp_path / "whole"
    add_adapters(model, AdapterConf(rank=2, train=["maskmem_tpos_enc"]))
    learn_something(model)
    save_adapters(model, AdapterConf(rank=2), whole)
    learnt = {name: value.detach().clone() for name, value in model.named_parameters() if is_adapter(name)}
    with pytest.raises(CheckpointError, match="already has adapters"):
        load_adapters(model, whole)
    merge_adapters(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    learning = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    for name, (spoil, word) in FAULTS.items():
        spoil(shutil.copytree(whole, tmp_path / name))
        with pytest.raises(FileNotFoundError if name == "missing" else CheckpointError, match=word):
            load_adapters(model, tmp_path / name)
        assert_same(dict(model.state_dict()), before)
        assert learning == [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        assert not adapted_layers(model) and not hasattr(model, "peft_config")
    load_adapters(model, whole)
    assert len(adapted_layers(model)) == 16 and not any(p.requires_grad for p in model.parameters())
    assert_same({name: model.get_parameter(name).detach() for name in learnt}, learnt)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("raise ModuleNotFoundError(name='peft')", r"pip install '\.\[adapters\]'$"),
        ("import nowhere", "peft cannot be imported: ModuleNotFoundError: .*'nowhere'"),
        (
            "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise RuntimeError from e",
            "imported: ZeroDivisionError",
        ),
    ],
)
def test_peft_that_cannot_be_imported(lines, message, tmp_path, monkeypatch):
    (tmp_path / "peft.py").write_text(lines)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "peft", raising=False)
    with pytest.raises(ImportError, match=message):
        add_adapters(torch.nn.Linear(2, 2), AdapterConf())
