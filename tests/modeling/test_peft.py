"""LoRA by peft on the official model and on ours, and its files, which our adapters also write."""

import pytest
import torch
from pair_results import attended, masks_of
from parity import random_map
from torch import nn

from sam2fast.training.adapters import AdapterConf, add_adapters, load_adapters, merge_adapters, save_adapters
from sam2fast.utils.testing import relative_error

PARTS = ("image_encoder", "memory_attention", "sam_mask_decoder")


@pytest.fixture
def peft():
    return pytest.importorskip("peft")  # two seconds, for those processes alone that need it


def linear_layers(model):
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return [name for name in layers if name.startswith(PARTS)]


def draw(model, marks=("lora_",)):
    """Random adapters, as if trained."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(mark in name for mark in marks):
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))


@torch.no_grad()
def results(model):
    """Of a click on an image, and of memory attention."""
    return [*masks_of(model), attended(model)]


def assert_same(expected, actual):
    for one, other in zip(expected, actual, strict=True):
        assert relative_error(one, other) <= 1e-4


def gradients(model):
    """Of all parts, by the names of the adapters' parameters."""
    levels = model.forward_image(random_map(1, 3, 128, 128))["backbone_fpn"]
    clicks = torch.tensor([[[60.0, 40.0]]]), torch.tensor([[1]])
    sparse, dense = model.sam_prompt_encoder(points=clicks, boxes=None, masks=None)
    decoded = model.sam_mask_decoder.predict_masks(  # all of them, unlike a call of the decoder
        image_embeddings=levels[-1],
        image_pe=model.sam_prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        repeat_image=False,
        high_res_features=levels[:2],
    )
    sum(x.square().mean() for x in (*decoded, *levels, attended(model))).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_lora_on_every_linear_layer(models, peft):
    """It takes effect in each, learns as in the official package, and is merged by peft."""
    before, layers = results(models[1]), linear_layers(models[0])
    assert layers == linear_layers(models[1]) and len(layers) > 90
    conf = peft.LoraConfig(r=4, lora_alpha=8, target_modules=layers)
    wrapped = [peft.get_peft_model(model, conf) for model in models]
    for model in models:
        draw(model)
    expected, actual = map(results, models)
    assert_same(expected, actual)
    assert min(relative_error(one, other) for one, other in zip(before, actual, strict=True)) > 0.01
    theirs, ours = map(gradients, models)
    assert theirs.keys() == ours.keys() and len(ours) == 2 * len(layers)
    assert all(gradient.any() for gradient in theirs.values())
    for name, gradient in theirs.items():
        assert relative_error(gradient, ours[name]) <= 1e-4, name
    assert_same(expected, results(wrapped[1].merge_and_unload()))


def test_our_adapters_are_loaded_by_peft(models, peft, tmp_path):
    official, ours = models
    trained = ["maskmem_tpos_enc", "sam_mask_decoder.iou_prediction_head.*", "memory_attention.layers.0.linear1.bias"]
    conf = AdapterConf(rank=4, alpha=8, targets=[f"{part}.*" for part in PARTS], train=trained)
    add_adapters(ours, conf)
    draw(ours, ("lora_", "iou_prediction_head", "layers.0.linear1.bias"))
    save_adapters(ours, conf, tmp_path / "adapters")
    adapted = peft.PeftModel.from_pretrained(official, tmp_path / "adapters")
    assert_same(results(ours), results(official))
    merged = adapted.merge_and_unload().state_dict()
    merge_adapters(ours)
    assert_same((merged[name] for name in ours.state_dict()), ours.state_dict().values())


@pytest.mark.parametrize(
    ("options", "learnt"),
    [
        ({"use_rslora": True}, ()),
        ({"bias": "lora_only"}, ("base_layer.bias",)),
        ({"modules_to_save": ["iou_prediction_head"]}, ("modules_to_save",)),
    ],
    ids=["rslora", "biases", "modules"],
)
def test_adapters_of_peft_are_loaded(models, peft, tmp_path, options, learnt):
    official, ours = models
    layers = [name for name in linear_layers(official) if "iou_prediction_head" not in name]
    adapted = peft.get_peft_model(official, peft.LoraConfig(r=4, lora_alpha=8, target_modules=layers, **options))
    draw(adapted, ("lora_", *learnt))
    adapted.save_pretrained(tmp_path, safe_serialization=bool(learnt))  # adapter_model.safetensors, or .bin
    load_adapters(ours, tmp_path)
    expected = results(official)
    assert_same(expected, results(ours))
    merge_adapters(ours)
    assert_same(expected, results(ours))
