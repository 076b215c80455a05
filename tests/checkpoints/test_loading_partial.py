"""Prefixes of names, and checkpoints that fit only in part."""

import logging

import pytest
import torch
from click.testing import CliRunner

from sam2fast import SAM2ImagePredictor, nano
from sam2fast.build_sam import build_sam2, build_sam2_hf, build_sam2_video_predictor
from sam2fast.checkpoints import CheckpointError, load_partial, read_checkpoint
from sam2fast.checkpoints.converting import convert_checkpoint
from sam2fast.checkpoints.transformers_layout import to_transformers
from sam2fast.cli import main
from sam2fast.cli.model_choice import choose_model
from sam2fast.cli.user_errors import UserError


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


def messages_of(path):
    """The messages of all functions and commands that refuse a file."""
    with pytest.raises(CheckpointError) as of_builder:
        build_sam2(nano.CONFIG, path, device="cpu")
    with pytest.raises(CheckpointError) as of_id:
        SAM2ImagePredictor.from_pretrained(path, device="cpu")
    with pytest.raises(CheckpointError) as of_part:
        build_sam2(nano.CONFIG, path, device="cpu", partial=True)
    with pytest.raises(UserError) as of_command:
        choose_model(None, path)
    with pytest.raises(CheckpointError) as of_convert:
        convert_checkpoint(path, path.with_name("out.pt"), "official")
    assert not path.with_name("out.pt").exists()
    return {str(error.value) for error in (of_builder, of_id, of_part, of_command, of_convert)}


def compiled(weights):
    """The names where the encoder is compiled, and the blocks of the memory attention are checkpointed."""
    names = {"image_encoder.": "image_encoder._orig_mod."}
    names |= {f"attention.layers.{i}.": f"attention.layers.{i}._checkpoint_wrapped_module." for i in range(4)}
    out = {}
    for name, tensor in weights.items():
        for before, after in names.items():
            name = name.replace(before, after)
        out[name] = tensor
    assert len(out.keys() - weights.keys()) > 100
    return out


class TestPrefixes:
    @pytest.mark.parametrize(
        ("prefix", "layout"),
        [("model.", to_transformers), ("module._orig_mod.", compiled), ("base_model.model.sam2.", dict)],
    )
    def test_that_all_names_have_are_removed(self, prefix, layout, nano_weights, tmp_path):
        path = save(tmp_path / "wrapped.pt", with_prefix(prefix, layout(nano_weights)))
        assert choose_model(None, path).config == nano.CONFIG
        found = [read_checkpoint(path), read_checkpoint(path, prefix.partition(".")[0] + ".")]
        found.append(build_sam2_hf(path, device="cpu").state_dict())
        convert_checkpoint(path, tmp_path / "out.safetensors", "safetensors")
        found.append(read_checkpoint(tmp_path / "out.safetensors"))
        for loaded in found:
            assert loaded.keys() == nano_weights.keys()
            assert all(torch.equal(loaded[name], nano_weights[name]) for name in nano_weights)

    def test_names_elsewhere_are_refused_with_what_helps(self, nano_weights, tmp_path, caplog):
        """By every entrance with the same words."""
        path = save(tmp_path / "a run.pt", with_prefix("model.", nano_weights) | {"loss.weight": torch.ones(2)})
        command = f"sam2fast convert '{path}' weights.pt --prefix model."
        (message,) = messages_of(path)
        found = "has 422 weights: 421 below 'model.', 1 elsewhere (loss.weight)."
        assert message.startswith(f"{path} {found}") and f"`{command}`" in message
        assert message.endswith("pass ckpt_prefix='model.' in Python")
        converted = CliRunner().invoke(main, ["convert", str(path), str(tmp_path / "w.pt"), "--prefix", "model."])
        assert converted.exit_code == 0
        assert "left out the names without the prefix 'model.': loss.weight" in caplog.text
        for file, prefix in ((tmp_path / "w.pt", ""), (path, "model.")):
            model = build_sam2_hf(file, device="cpu", ckpt_prefix=prefix)
            assert all(torch.equal(x, nano_weights[name]) for name, x in model.state_dict().items())

    def test_a_part_of_the_model_is_no_prefix(self, nano_weights, tmp_path):
        trunk = {name: x for name, x in nano_weights.items() if name.startswith("image_encoder.trunk.")}
        assert read_checkpoint(save(tmp_path / "trunk.pt", trunk)).keys() == trunk.keys()

    @pytest.mark.parametrize(
        ("layout", "prefix", "word"),
        [
            (dict, "module.", "no name in .* begins with 'module.'; the first is"),
            (lambda w: with_prefix("module.", w | {"head.weight": torch.ones(2)}), "", r"1 unexpected: head.weight\. "),
            (
                lambda w: with_prefix("model.", w) | {"ema.image_encoder.a": torch.ones(1)},
                "",
                r"422 weights: 1 below 'ema\.', 421 below 'model\.'\.",
            ),
            (lambda w: w | {"_orig_mod.no_mem_embed": torch.zeros(1, 1, 128)}, "", "with and without .*_orig_mod"),
        ],
        ids=["prefix of no name", "another module below the prefix", "two prefixes", "with and without a wrapper"],
    )
    def test_refusals(self, nano_weights, tmp_path, layout, prefix, word):
        with pytest.raises(CheckpointError, match=word):
            build_sam2(nano.CONFIG, save(tmp_path / "x.pt", layout(nano_weights)), device="cpu", ckpt_prefix=prefix)


class TestPartial:
    def test_takes_what_fits_and_says_what_not(self, model, finetuned, nano_weights, caplog):
        before = state(model)
        with caplog.at_level(logging.INFO, "sam2fast"):
            report = load_partial(model, finetuned)
        assert report.missing == ("no_obj_embed_spatial",)
        assert report.unexpected == ("classifier.weight",)
        assert report.other_shape == {"maskmem_tpos_enc": ((5, 1, 1, 64), (7, 1, 1, 64))}
        assert len(report.loaded) == 419 and not report.complete
        assert "419 weights loaded, 2 unchanged" in caplog.text and caplog.records[0].levelname == "WARNING"
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
        inside = {name: x for name, x in nano_weights.items() if name.startswith("image_encoder.")}
        trunk = {name.removeprefix("image_encoder."): x for name, x in inside.items()}
        path = save(tmp_path / "trunk.pt", with_prefix("backbone.", trunk))
        report = load_partial(model, path, prefix="backbone.", rename=lambda name: f"image_encoder.{name}")
        assert len(report.loaded) == len(trunk) and not report.unexpected
        assert torch.equal(model.image_encoder.trunk.pos_embed, nano_weights["image_encoder.trunk.pos_embed"])

    @pytest.mark.parametrize(
        ("weights", "rename", "message"),
        [
            (lambda weights: {"a": torch.zeros(1)}, None, "no weight of the checkpoint fits.*421 missing[^']*$"),
            (dict, lambda name: "x", "rename gives 'x' to two weights"),
        ],
        ids=["other names", "one name"],
    )
    def test_refusals_leave_the_model_unchanged(self, model, nano_weights, tmp_path, weights, rename, message):
        before = state(model)
        with pytest.raises(CheckpointError, match=message):
            load_partial(model, save(tmp_path / "x.pt", weights(nano_weights)), rename=rename)
        assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
