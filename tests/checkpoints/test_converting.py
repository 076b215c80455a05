"""``sam2fast convert`` and its functions: every layout to every other, atomically."""

import hashlib
import json
import os
import stat
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from file_contents import files_of
from safetensors import safe_open
from safetensors.torch import save_file
from small_nano import write_small_nano

from sam2fast import nano
from sam2fast.build_sam import build_sam2_hf
from sam2fast.checkpoints import CheckpointError, read_checkpoint, writing
from sam2fast.checkpoints.converting import convert_checkpoint
from sam2fast.checkpoints.int8 import from_int8, to_int8
from sam2fast.checkpoints.loading import is_video_only
from sam2fast.cli import main
from sam2fast.config import ConfigError

TARGETS = {"official": "out/x.pt", "safetensors": "out/x.safetensors", "transformers": "out/x"}


@pytest.fixture
def convert(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        result = CliRunner().invoke(main, ["convert", *map(str, arguments)], prog_name="sam2fast")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture(scope="module")
def sources(nano_file, nano_weights, tmp_path_factory):
    """A checkpoint for each layout: a folder of transformers needs a model, and others are quicker with two weights."""
    path = tmp_path_factory.mktemp("few") / "few.pt"
    torch.save({name: nano_weights[name] for name in ("no_mem_embed", "no_obj_ptr")}, path)
    return dict.fromkeys(TARGETS, path) | {"transformers": nano_file}


def without_scores(weights):
    return {name: x for name, x in weights.items() if "pred_obj_score" not in name}


@pytest.mark.parametrize(
    ("first", "second"),
    [("official", "transformers"), ("transformers", "safetensors"), ("safetensors", "official")],
)
def test_from_layout_to_layout(convert, nano_file, nano_weights, tmp_path, first, second):
    assert convert(nano_file, TARGETS[first]).exit_code == 0
    target = TARGETS[second].replace("out", "there")
    result = convert(TARGETS[first], target)
    assert result.exit_code == 0, result.stderr
    back = read_checkpoint(target)
    assert back.keys() == nano_weights.keys()
    assert all(torch.equal(back[name], nano_weights[name]) for name in back)
    lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert lines["layout"] == second and lines["fits"] == nano.CONFIG
    assert lines["weights"] == f"421 tensors, {sum(x.numel() for x in nano_weights.values())} parameters, float32"
    for line in result.stdout.splitlines()[4:]:
        _, digest, file = line.split()
        assert hashlib.sha256((tmp_path / file).read_bytes()).hexdigest() == digest
    assert len(files_of(tmp_path / "there")) == (2 if second == "transformers" else 1)
    if second == "official":
        content = torch.load(target, weights_only=True)
        assert content.keys() == {"model", "made_from"} and content["model"].keys() == nano_weights.keys()


def test_the_folder_is_for_transformers(convert, nano_file, tmp_path):
    convert(nano_file, "x", "--dtype", "bfloat16")
    with safe_open("x/model.safetensors", "pt") as file:
        assert file.metadata().keys() == {"format", "made_from"} and file.metadata()["format"] == "pt"
        names = set(file.keys())
    assert "prompt_encoder.point_embed.weight" in names and "no_mem_embed" not in names
    config = json.loads((tmp_path / "x/config.json").read_text())
    assert config["dtype"] == "bfloat16" and config["image_size"] == 256
    assert stat.S_IMODE(os.stat("x/model.safetensors").st_mode) == stat.S_IMODE(os.stat("x/config.json").st_mode)
    assert build_sam2_hf(tmp_path / "x", device="cpu").image_size == 256


def test_dtypes(convert, nano_file, nano_weights):
    found = convert(nano_file, "x.safetensors", "--dtype", "float16").stdout
    assert "421 tensors, 5027874 parameters, float16" in found
    half = read_checkpoint("x.safetensors")
    assert all(torch.equal(half[name], x.half()) for name, x in nano_weights.items())
    # A folder of transformers has one dtype, and the package's file has two.
    assert "parameters, float16, float32" in convert(nano.WEIGHTS, "y.pt").stdout
    assert "parameters, float32\n" in convert(nano.WEIGHTS, "y").stdout


@pytest.mark.parametrize(("before", "after"), [(torch.float8_e4m3fn, torch.float16), (None, torch.float8_e4m3fn)])
def test_eight_bit_floats(nano_weights, tmp_path, before, after):
    """Numbers that are too large for the new dtype are found."""
    weights = {name: nano_weights[name].to(before) for name in ("no_mem_embed", "no_obj_ptr")}
    save_file(weights, tmp_path / "in.safetensors")
    convert_checkpoint(tmp_path / "in.safetensors", tmp_path / "out.safetensors", "safetensors", dtype=after)
    found = read_checkpoint(tmp_path / "out.safetensors")
    assert all(
        x.dtype == after and torch.equal(x.float(), weights[name].to(after).float()) for name, x in found.items()
    )
    save_file({"no_obj_ptr": torch.full((1, 128), 1e5)}, tmp_path / "large.safetensors")
    with pytest.raises(CheckpointError, match="no_obj_ptr has numbers too large"):
        convert_checkpoint(tmp_path / "large.safetensors", tmp_path / "x.safetensors", "safetensors", dtype=after)


def test_eight_bits(convert, nano_file, nano_weights, tmp_path):
    """A quarter of the size; every value is within half a step of its output channel."""
    result = convert(nano_file, "x.safetensors", "--int8")
    assert "421 tensors, 5027874 parameters, float32, int8" in result.stdout
    assert f"fits     {nano.CONFIG}" in result.stdout
    assert Path("x.safetensors").stat().st_size < 0.28 * nano_file.stat().st_size
    found = read_checkpoint("x.safetensors")
    assert found.keys() == nano_weights.keys()
    for name, weight in nano_weights.items():
        if weight.numel() < 4096:
            assert torch.equal(found[name], weight)
        elif name.endswith(".weight"):
            step = weight.flatten(1).abs().amax(1) / 127
            error = (found[name] - weight).flatten(1).abs().amax(1)
            assert (error <= 0.5001 * step).all() and error.any()
        else:
            assert torch.equal(found[name], weight.half())
    # Written again, it is the same.
    convert("x.safetensors", "y.safetensors", "--int8")
    assert all(torch.equal(tensor, found[name]) for name, tensor in read_checkpoint("y.safetensors").items())


@pytest.mark.parametrize("cut", ["a.weight", "a.weight.int8_scale"])
def test_scales_that_fit_no_weight(tmp_path, cut):
    stored = to_int8({"a.weight": torch.randn(64, 64)})
    save_file(stored | {cut: stored[cut][:3]}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=r"x\.safetensors: a\.weight\.int8_scale"):
        read_checkpoint(tmp_path / "x.safetensors")


def test_a_channel_of_zeros():
    weight = torch.randn(64, 64)
    weight[3] = 0
    assert torch.equal(from_int8(to_int8({"a.weight": weight}))["a.weight"][3], weight[3])
    with pytest.raises(CheckpointError, match="not finite"):
        to_int8({"a.weight": weight / weight})


def test_weights_for_images(convert, nano_weights, tmp_path):
    image = {name: x for name, x in nano_weights.items() if not is_video_only(name) or "pred_obj_score" in name}
    torch.save(image, tmp_path / "image.pt")
    assert convert("image.pt", "x").exit_code == 0
    config = json.loads((tmp_path / "x/config.json").read_text())
    assert config["model_type"] == "sam2" and config["architectures"] == ["Sam2Model"]
    assert read_checkpoint(tmp_path / "x").keys() == image.keys()
    torch.save(without_scores(image), tmp_path / "image.pt")
    assert convert("image.pt", "y.safetensors").exit_code == 0


def test_prefix_and_model(convert, nano_weights, tmp_path):
    torch.save({"module." + name: x for name, x in nano_weights.items()}, tmp_path / "wrapped.pt")
    write_small_nano(tmp_path / "small.yaml", 192)
    result = convert("wrapped.pt", "x", "--prefix", "module.", "--model", "small.yaml")
    assert result.exit_code == 0, result.stderr
    assert json.loads((tmp_path / "x/config.json").read_text())["image_size"] == 192
    model = build_sam2_hf(tmp_path / "x", device="cpu")
    assert model.image_size == 192
    assert "with     ++model.image_size=192" in convert("x", "y.pt").stdout  # which is lost there


def test_weights_of_no_configuration(convert, tmp_path):
    torch.save({"head.weight": torch.ones(2)}, tmp_path / "x.pt")
    assert "fits     no configuration" in convert("x.pt", "y.safetensors").stdout
    assert [*files_of(tmp_path)] == ["x.pt", "y.safetensors"]


@pytest.mark.parametrize("layout", TARGETS)
def test_nothing_is_overwritten_without_overwrite(convert, sources, nano_weights, tmp_path, layout):
    """With it also in place."""
    source, target = sources[layout], TARGETS[layout]
    convert(source, target, "--dtype", "bfloat16")
    before = files_of(tmp_path)
    result = convert(source, target)
    assert result.exit_code == 1 and "already exists" in result.stderr
    assert files_of(tmp_path) == before
    assert convert(source, target, "--overwrite").exit_code == 0
    assert torch.equal(read_checkpoint(target)["no_mem_embed"], nano_weights["no_mem_embed"])
    assert convert(target, target, "--overwrite", "--dtype", "float16").exit_code == 0
    found = read_checkpoint(target)
    assert found and all(torch.equal(x, nano_weights[name].half()) for name, x in found.items())
    assert [*files_of(tmp_path)] == list(before)


def test_a_folder_with_other_files_is_not_replaced(convert, nano_file, tmp_path):
    convert(nano_file, "x")
    (tmp_path / "x/notes.txt").write_text("mine")
    result = convert(nano_file, "x", "--overwrite")
    assert result.exit_code == 1 and "other files, such as notes.txt" in result.stderr
    (tmp_path / "f").write_text("a file")
    result = convert(nano_file, "f", "--overwrite")
    assert result.exit_code == 1 and "f is a file, and is not replaced" in result.stderr
    assert (tmp_path / "f").read_text() == "a file" and len(files_of(tmp_path)) == 4


@pytest.mark.parametrize("layout", TARGETS)
def test_a_file_that_reads_back_differently_is_removed(sources, tmp_path, monkeypatch, layout):
    """The previous checkpoint is complete, and nothing of the new one is left."""
    target = tmp_path / TARGETS[layout]
    convert_checkpoint(sources[layout], target, layout, dtype=torch.bfloat16)
    before = files_of(tmp_path)

    def damaged(path):
        weights = read_checkpoint(path)
        weights["no_mem_embed"] = weights["no_mem_embed"] + 1
        return weights

    monkeypatch.setattr(writing, "read_checkpoint", damaged)
    with pytest.raises(CheckpointError, match="read back, for example in no_mem_embed"):
        convert_checkpoint(sources[layout], target, layout, overwrite=True)
    assert files_of(tmp_path) == before
    assert len(list((tmp_path / "out").iterdir())) == 1


@pytest.mark.parametrize("layout", ["safetensors", "transformers"])
def test_a_link_stays(sources, tmp_path, layout):
    """First a dangling symlink, then one to a file that is replaced."""
    link = tmp_path / f"link{Path(TARGETS[layout]).suffix}"
    (tmp_path / "store").mkdir()
    os.symlink(f"store/x{link.suffix}", link)
    convert_checkpoint(sources[layout], link, layout, dtype=torch.bfloat16)
    first = files_of(tmp_path)
    convert_checkpoint(sources[layout], link, layout, overwrite=True)
    assert os.readlink(link) == f"store/x{link.suffix}" and os.listdir(tmp_path / "store") == [f"x{link.suffix}"]
    assert files_of(tmp_path) != first
    read_checkpoint(link)


def test_a_folder_that_cannot_be_renamed_leaves_the_old_one(nano_file, tmp_path, monkeypatch):
    convert_checkpoint(nano_file, tmp_path / "x", "transformers", dtype=torch.bfloat16)
    before, rename = files_of(tmp_path), Path.rename

    def refuse(source, target):
        if source.parent.suffix == ".part" and source.name == "x":
            raise OSError("no space")
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="no space"):
        convert_checkpoint(nano_file, tmp_path / "x", "transformers", overwrite=True)
    assert files_of(tmp_path) == before


@pytest.mark.parametrize(
    ("content", "arguments", "code", "word"),
    [
        (b"PK\x03\x04", "nowhere.pt x.pt", 3, "no checkpoint 'nowhere.pt'"),
        (b"PK\x03\x04", "in.pt x.pt", 1, "truncated, damaged"),
        (b"PK\x03\x04", "in.pt x.pt --to transformers", 2, "needs a folder"),
        (b"PK\x03\x04", "in.pt x.bin --to official", 2, "must be named *.pt"),
        (dict, "in.pt x.ckpt", 2, "name it .pt or .safetensors, or give --to"),
        (dict, "in.pt x.pt --int8", 2, "--int8 is for the layout safetensors"),
        (dict, "in.pt x.safetensors --int8 --dtype float16", 2, "--int8 is for the layout safetensors"),
        (lambda w: w | {"no_obj_ptr": torch.full((1, 128), 1e5)}, "in.pt x.pt --dtype float16", 1, "no_obj_ptr"),
        (lambda w: w | {"head.weight": torch.ones(2)}, "in.pt x", 1, "of another shape: head.weight"),
        (lambda w: w | {"head.weight": torch.ones(2)}, "in.pt x.pt --model nano", 1, "of another shape: head.weight"),
        (lambda w: {"head.weight": torch.ones(2)}, "in.pt x", 1, "fits none of nano, mini and the official models"),
        (lambda w: {"\ud800": torch.ones(2)}, "in.pt x.safetensors", 1, r"the name '\ud800' of a weight"),
        (without_scores, "in.pt x", 1, "sam_mask_decoder.pred_obj_score_head"),
    ],
)
def test_refusals(convert, nano_weights, tmp_path, content, arguments, code, word):
    file = tmp_path / "in.pt"
    file.write_bytes(content) if isinstance(content, bytes) else torch.save(content(nano_weights), file)
    result = convert(*arguments.split())
    assert result.exit_code == code and word in result.stderr
    assert code == 2 or len(result.stderr.splitlines()) == 1
    assert [*files_of(tmp_path)] == ["in.pt"]


def test_more_weights_than_the_model_has(convert, nano_weights, tmp_path, monkeypatch):
    torch.save(nano_weights | {"head.weight": torch.ones(2)}, tmp_path / "in.pt")
    monkeypatch.setenv("HOME", str(tmp_path))
    result = convert("in.pt", "~/x.safetensors")
    assert result.exit_code == 0 and "no configuration of the package" in result.stdout
    assert read_checkpoint(tmp_path / "x.safetensors").keys() == nano_weights.keys() | {"head.weight"}


def test_refused_arguments(nano_file, tmp_path):
    for dtype in (torch.int8, "float16"):
        with pytest.raises(ValueError, match="expected a floating-point torch.dtype"):
            convert_checkpoint(nano_file, tmp_path / "x.pt", "official", dtype=dtype)
    with pytest.raises(ConfigError, match="has no 'model'"):
        convert_checkpoint(nano_file, tmp_path / "x.pt", "official", config="nano/sam2fast_nano_own_masks")
    assert [*files_of(tmp_path)] == []


def test_the_command_takes_a_folder(tmp_path, nano_file, nano_weights):
    from sam2fast.cli.model_choice import choose_model
    from sam2fast.cli.user_errors import UserError

    convert_checkpoint(nano_file, tmp_path / "x", "transformers")
    assert choose_model(None, tmp_path / "x")[:2] == (nano.CONFIG, tmp_path / "x/model.safetensors")
    config = json.loads((tmp_path / "x/config.json").read_text())
    (tmp_path / "x/config.json").write_text(json.dumps(config | {"max_cond_frame_num": 4}))
    with pytest.raises(UserError, match=r"max_cond_frames_in_attn=4, .* with --model FILE.yaml"):
        choose_model(None, tmp_path / "x")
    assert choose_model("nano", tmp_path / "x").config == nano.CONFIG
    (tmp_path / "x/config.json").write_text(json.dumps(config | {"num_maskmem": 4}))
    with pytest.raises(UserError, match="num_maskmem is 4 instead of 7.* with --model FILE.yaml"):
        choose_model(None, tmp_path / "x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no checkpoint") as error:
        choose_model(None, tmp_path / "empty")
    assert error.value.exit_code == 3
