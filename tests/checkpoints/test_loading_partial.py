"""Prefixes of names, and checkpoints that fit only in part."""

import logging
from functools import partial

import pytest
import torch

from sam2fast import nano
from sam2fast.build_sam import build_sam2, build_sam2_hf, build_sam2_video_predictor
from sam2fast.checkpoints import CheckpointError, load_partial, read_checkpoint


def save(path, weights):
    torch.save({"model": weights}, path)
    return path


def with_prefix(prefix, weights):
    return {prefix + name: tensor for name, tensor in weights.items()}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build_sam2(nano.CONFIG, None, device="cpu")


@pytest.fixture
def finetuned(nano_weights, tmp_path):
    """Another head, a weight of another shape, and one that is missing."""
    weights = dict(nano_weights)
    del weights["no_obj_embed_spatial"]
    weights["maskmem_tpos_enc"] = torch.ones(5, 1, 1, 64)
    weights["classifier.weight"] = torch.ones(3, 128)
    return save(tmp_path / "finetuned.pt", weights)


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


class TestPrefixes:
    def test_are_named_and_taken_off_on_request(self, nano_weights, tmp_path):
        prefix = "module.model."
        path = save(tmp_path / "wrapped.pt", with_prefix(prefix, nano_weights))
        with pytest.raises(CheckpointError, match=f"421 missing.*Every name begins with '{prefix}'.*ckpt_prefix="):
            build_sam2(nano.CONFIG, path, device="cpu")
        loaded = build_sam2(nano.CONFIG, path, device="cpu", ckpt_prefix=prefix).state_dict()
        assert all(torch.equal(loaded[name], nano_weights[name]) for name in nano_weights)
        build_sam2_hf(path, device="cpu", ckpt_prefix=prefix)

    def test_a_part_of_the_model_is_no_prefix(self, nano_weights, tmp_path):
        trunk = {name: x for name, x in nano_weights.items() if name.startswith("image_encoder.trunk.")}
        with pytest.raises(CheckpointError) as error:
            build_sam2(nano.CONFIG, save(tmp_path / "trunk.pt", trunk), device="cpu")
        assert "begins with" not in str(error.value)

    def test_one_that_no_name_has(self, nano_file):
        with pytest.raises(CheckpointError, match="no name in .* begins with 'module.'; the first is"):
            build_sam2(nano.CONFIG, nano_file, device="cpu", ckpt_prefix="module.")

    def test_two_names_that_become_one(self, nano_weights, tmp_path):
        path = save(tmp_path / "twice.pt", nano_weights | {"module.no_mem_embed": torch.zeros(1, 1, 128)})
        with pytest.raises(CheckpointError, match="no_mem_embed with and without the prefix"):
            read_checkpoint(path, "module.")


class TestPartial:
    def test_takes_what_fits_and_says_what_not(self, model, finetuned, nano_weights, caplog):
        before = state(model)
        with caplog.at_level(logging.INFO, "sam2fast"):
            report = load_partial(model, finetuned)
        assert report.missing == ("no_obj_embed_spatial",)
        assert report.unexpected == ("classifier.weight",)
        assert report.other_shape == {"maskmem_tpos_enc": ((5, 1, 1, 64), (7, 1, 1, 64))}
        assert len(report.loaded) == 419 and not report.complete
        assert "419 weights loaded, 2 as they were" in caplog.text and caplog.records[0].levelname == "WARNING"
        after = model.state_dict()
        for name in after:
            assert torch.equal(after[name], (nano_weights if name in report.loaded else before)[name]), name

    def test_by_the_builders(self, finetuned, nano_weights, caplog):
        model = build_sam2_video_predictor(nano.CONFIG, finetuned, device="cpu", partial=True, dtype=torch.bfloat16)
        assert torch.equal(model.no_mem_embed, nano_weights["no_mem_embed"])
        name = "image_encoder.trunk.blocks.0.attn.qkv.weight"
        assert torch.equal(model.state_dict()[name], nano_weights[name].bfloat16())
        for left in (model.maskmem_tpos_enc, model.no_obj_embed_spatial):
            assert left.isfinite().all() and left.std() > 0  # as a new model has it
        assert "1 of another shape: maskmem_tpos_enc (5, 1, 1, 64) instead of (7, 1, 1, 64)" in caplog.text

    def test_rename(self, model, nano_weights, tmp_path):
        trunk = {
            name.removeprefix("image_encoder."): x
            for name, x in nano_weights.items()
            if name.startswith("image_encoder")
        }
        path = save(tmp_path / "trunk.pt", with_prefix("backbone.", trunk))
        report = load_partial(model, path, prefix="backbone.", rename=lambda name: f"image_encoder.{name}")
        assert len(report.loaded) == len(trunk) and not report.unexpected
        assert torch.equal(model.image_encoder.trunk.pos_embed, nano_weights["image_encoder.trunk.pos_embed"])

    @pytest.mark.parametrize(
        ("weights", "rename", "message"),
        [
            (lambda weights: {"a": torch.zeros(1)}, None, "nothing of the checkpoint fits.*421 missing[^']*$"),
            (partial(with_prefix, "module."), None, "nothing of the checkpoint fits.*pass prefix='module.'"),
            (dict, lambda name: "x", "rename gives 'x' to two weights"),
        ],
        ids=["other names", "prefix", "one name"],
    )
    def test_what_is_refused_leaves_the_model_as_it_was(self, model, nano_weights, tmp_path, weights, rename, message):
        before = state(model)
        with pytest.raises(CheckpointError, match=message):
            load_partial(model, save(tmp_path / "x.pt", weights(nano_weights)), rename=rename)
        assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
