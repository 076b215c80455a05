"""``examples/make_models``: the weights of mini and nano, their recipes, the auxiliary task, pseudo-labels."""

import json
import math
import runpy
import sys
from pathlib import Path

import derive_mini
import label_photographs
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from dense_auxiliary import DenseAuxiliary, draw_pairs, find_boundaries, object_ids
from derive_mini import derive
from export_nano import LEAST_HALF, ROUNDING, export, to_half
from fake_teacher import FakePredictor
from parity import NothingDrawn, config_name, random_image
from PIL import Image
from safetensors import safe_open
from small_training import AUXILIARY, assert_same, build, checkpoint_of
from split_mini import split
from tame_weights import fill
from vos_sets import davis_folder

from sam2fast import build_sam2, mini, nano
from sam2fast.checkpoints import VIDEO_ONLY, CheckpointError, read_checkpoint
from sam2fast.checkpoints.loading import is_video_only
from sam2fast.datasets.clip import Clip
from sam2fast.training.config import build_trainer, load_training_config
from sam2fast.training.data.batch import collate
from sam2fast.training.data.png_datasets import PNGRawDataset

FOLDER = Path(__file__).parents[2] / "examples/make_models"


def run(script, *arguments):
    """Runs a script in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script, *map(str, arguments)])
        runpy.run_path(str(FOLDER / script), run_name="__main__")


def tame(config):
    with NothingDrawn():
        model = build_sam2(config, None, device="cpu")
    return fill(model, 0).state_dict()


@pytest.mark.slow
class TestMini:
    def test_its_image_path_is_tinys_without_the_fourth_stage(self, tmp_path):
        """The file fits mini, lacks only what video needs, and gives tiny's finer maps."""
        torch.save({"model": tame(config_name("sam2_t"))}, tmp_path / "tiny.pt")
        files = [str(tmp_path / name) for name in ("tiny.pt", "image.pt")]
        run("derive_mini.py", *files)
        found = read_checkpoint(files[1])
        small, large = (
            build_sam2(config, file, device="cpu")
            for config, file in ((mini.CONFIG, files[1]), (config_name("sam2_t"), files[0]))
        )
        missing = small.state_dict().keys() - found.keys()
        assert missing and all(is_video_only(name) for name in missing)
        image = torch.randn(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            ours, theirs = (model.image_encoder(image)["backbone_fpn"] for model in (small, large))
        assert [x.shape for x in ours] == [x.shape for x in theirs]
        # To these levels tiny's neck adds nothing coarser.
        for level in (0, 1):
            torch.testing.assert_close(ours[level], theirs[level], rtol=1e-5, atol=1e-5)
        assert not torch.allclose(ours[2], theirs[2], atol=0.1)
        with pytest.raises(CheckpointError, match="a trunk of twelve blocks"):
            derive(found)

    def test_the_projection_is_fitted_on_photographs(self, tmp_path, monkeypatch):
        """It comes nearer to tiny's embedding of them; nothing else changes."""
        torch.save({"model": tame(config_name("sam2_t"))}, tmp_path / "tiny.pt")
        photographs = [tmp_path / f"{number}.png" for number in range(3)]
        for number, photograph in enumerate(photographs):
            Image.fromarray(random_image(240, 320, number)).save(photograph)
        monkeypatch.setattr(derive_mini, "SIZES", (64, 96, 64))
        derived = derive(read_checkpoint(tmp_path / "tiny.pt"))
        with torch.inference_mode():
            fitted = derive_mini.refit(derived, tmp_path / "tiny.pt", photographs)
            teacher = derive_mini._teacher(tmp_path / "tiny.pt", 64)
            levels = teacher.model.image_encoder.trunk(teacher._transforms(np.array(Image.open(photographs[0])))[None])
            expected = teacher.model.image_encoder.neck(levels)[0][2]
        before = [derived[f"{derive_mini.NECK}0.conv.{name}"] for name in ("weight", "bias")]
        assert [x.shape for x in fitted] == [x.shape for x in before]
        errors = [float((F.conv2d(levels[2], *weights) - expected).square().mean()) for weights in (before, fitted)]
        assert errors[1] < 0.5 * errors[0]

    def test_a_projection_that_is_exact_is_found(self):
        rng = torch.Generator().manual_seed(0)
        x, weight, bias = (torch.randn(*shape, generator=rng).double() for shape in ((500, 6), (4, 6), (4,)))
        ones = torch.cat([x + 3, torch.ones(500, 1)], dim=1)
        y = (x + 3) @ weight.t() + bias
        for prior in (weight, weight + 0.01):
            found = derive_mini.fit(ones.t() @ ones, ones.t() @ y, prior.float()[..., None, None])
            torch.testing.assert_close(found[0][..., 0, 0], weight.float(), rtol=0, atol=1e-3)
            torch.testing.assert_close(found[1], bias.float(), rtol=0, atol=5e-3)

    def test_files(self, tmp_path, capsys):
        """Weights come back nearly as they were; another memory leaves the file of the image path as it was."""
        trained, contents = tame(mini.CONFIG), []
        for step in (0.0, 0.25):
            weights = {name: weight + step * is_video_only(name) for name, weight in trained.items()}
            torch.save({"model": weights}, tmp_path / "averaged.pt")
            run("split_mini.py", tmp_path / "averaged.pt", "--out", tmp_path)
            found = read_checkpoint(tmp_path / mini.WEIGHTS.name)
            assert found.keys() == weights.keys()
            for name, weight in weights.items():
                most = weight.abs().max() * (2**-10 if is_video_only(name) else 1 / 253)
                assert (found[name].float() - weight).abs().max() <= most, name
            contents.append([file.read_bytes() for file in sorted(tmp_path.glob("*.*s*"))])
        (image, memory, index), (same, other_memory, other_index) = contents
        assert image == same and memory != other_memory and index != other_index
        assert "image.safetensors: 17.9 MB" in capsys.readouterr().out

        trained["no_obj_ptr"].fill_(1e6)
        torch.save({"model": trained}, tmp_path / "averaged.pt")
        with pytest.raises(CheckpointError, match="no_obj_ptr has numbers that are not finite"):
            split(tmp_path / "averaged.pt", tmp_path)
        assert [file.read_bytes() for file in sorted(tmp_path.glob("*.*s*"))] == contents[1]


class TestNano:
    def test_large_tensors_are_rounded(self, tmp_path, capsys):
        weights = tame(nano.CONFIG)
        torch.save({"model": weights}, tmp_path / "averaged.pt")
        first, again = tmp_path / "first.safetensors", tmp_path / "again.safetensors"
        export(tmp_path / "averaged.pt", first, steps=7)
        run("export_nano.py", tmp_path / "averaged.pt", "--out", again, "--steps", "7")
        assert first.read_bytes() == again.read_bytes() and "10.2 MB" in capsys.readouterr().out
        with safe_open(first, "pt") as file:
            assert json.loads(file.metadata()["sam2fast"]) == {"config": nano.CONFIG, "steps": 7}
        stored = read_checkpoint(first)
        assert stored.keys() == weights.keys()
        for name, tensor in weights.items():
            assert (stored[name].float() - tensor).norm() <= ROUNDING * tensor.norm(), name
            assert stored[name].dtype == (torch.float32 if tensor.numel() < LEAST_HALF else torch.float16), name
            assert tensor.numel() >= LEAST_HALF or torch.equal(stored[name], tensor), name

    def test_values_beyond_fp16_stay_fp32(self):
        large = torch.randn(LEAST_HALF, generator=torch.Generator().manual_seed(0))
        assert to_half("a", large).dtype == torch.float16
        for other in (large * 1e6, large * 1e-7, large[1:]):
            assert to_half("a", other) is other

    @pytest.mark.parametrize("damage", ["not finite", "images only"])
    def test_other_checkpoints_change_nothing(self, tmp_path, damage):
        weights, out = tame(nano.CONFIG), tmp_path / "nano.safetensors"
        if damage == "not finite":
            weights["no_mem_embed"].fill_(torch.inf)
        else:
            weights = {k: v for k, v in weights.items() if not k.startswith(VIDEO_ONLY)}
        torch.save({"model": weights}, tmp_path / "wrong.pt")
        out.write_bytes(b"as it was")
        with pytest.raises((ValueError, CheckpointError), match="no_mem_embed|weights for images only"):
            export(tmp_path / "wrong.pt", out)
        assert out.read_bytes() == b"as it was" and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("recipe", ["nano_finish", "mini_memory"])
def test_recipes_take_a_step(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(FOLDER.parents[1])
    changes = [f"scratch.folder={tmp_path}", "trainer.accelerator=cpu", "scratch.media=null", "scratch.workers=0"]
    changes += ["trainer.checkpoint.initialize_from=null", "+trainer.logging.progress=false"]
    if recipe == "mini_memory":
        changes.append("scratch.size=64")
    else:
        davis_folder(tmp_path / "data", per_object=True)
        sizes = [f"{i}.{'dataset' if i < 3 else 'dataset.transforms.0'}.size=64" for i in range(5)]
        sizes += [f"{i}.batch_size=1" for i in range(5)]
        changes += [f"trainer.data.train.datasets.{size}" for size in sizes]
        changes += ["trainer.loss.all.size=32", "++trainer.model.image_size=64", f"scratch.photographs={tmp_path}/data"]
    config = load_training_config(f"examples/make_models/{recipe}.yaml", changes)
    trainer = build_trainer(config, ["dense_auxiliary"])
    trainer.run(lambda: True)
    assert trainer.steps == 1 and (tmp_path / "checkpoints/checkpoint.pt").exists()


class TestDenseAuxiliary:
    @pytest.fixture
    def scene(self):
        """Ids ``(2, 16, 24)``: two objects, then one with another id."""
        ids = torch.zeros(2, 16, 24, dtype=torch.int64)
        ids[:, 2:10, 3:9] = 5
        ids[0, 11:14, 12:20] = 2**40
        return ids

    def test_a_stopped_run_resumes_bitwise(self, tmp_path):
        for folder, counts in ((tmp_path / "whole", [3]), (tmp_path / "stopped", [2, 3])):
            for count in counts:
                trainer = build(folder, AUXILIARY, "scratch.updates=3", "+trainer.mode=train_only")
                before = trainer.auxiliary.embedding.weight.detach().clone()
                trainer.run(lambda trainer=trainer, count=count: trainer.steps == count)
            assert not torch.equal(trainer.auxiliary.embedding.weight, before)
        contents = [checkpoint_of(tmp_path / name) for name in ("whole", "stopped")]
        assert contents[0]["auxiliary"]
        assert_same(*contents)

    def test_perfect_features(self, scene):
        values = scene.unique()
        inside = (scene[:, None] == values[:, None, None]).float()
        features = torch.cat([inside, find_boundaries(scene)[:, None] * 2.0 - 1], dim=1)
        auxiliary = DenseAuxiliary(len(values) + 1, embedding_dim=len(values))
        with torch.no_grad():
            for head in (auxiliary.embedding, auxiliary.boundary):
                head.weight.zero_()
                head.bias.zero_()
            auxiliary.embedding.weight[:, :-1, 0, 0] = torch.eye(len(values))
            auxiliary.boundary.weight[0, -1] = 20.0
        # Scale 5 and bias 0: the logit of positive pairs is 5, of others 0. Only an embedding's direction counts.
        expected = (math.log1p(math.exp(-5)) + math.log(2)) / 2
        for scale in (1, 3):
            affinity, boundary = auxiliary.losses(scale * features, scene, torch.Generator())
            assert affinity.item() == pytest.approx(expected) and boundary.item() < 1e-4
        assert auxiliary.losses(-features, scene, torch.Generator())[1].item() > 10

    def test_pairs(self, scene):
        n, radius, width = 4000, 2, scene.shape[2]
        first, second = draw_pairs(scene, n, radius, torch.Generator().manual_seed(0))
        near = slice(0, n // 2)
        assert (first // width - second // width)[:, near].abs().max() == radius
        assert (first % width - second % width)[:, near].abs().max() == radius
        # All ids are equally frequent, also small ones; a far pixel does not depend on the first.
        for pixels in (first, second[:, n // 2 :]):
            for image, share in ((0, 1 / 3), (1, 1 / 2)):
                drawn = scene[image].flatten()[pixels[image]]
                for value in scene[image].unique():
                    assert (drawn == value).float().mean().item() == pytest.approx(share, abs=0.05)

    def test_ids_are_of_the_right_video(self):
        masks = np.zeros((1, 1, 4, 4), dtype=bool)
        masks[..., :2] = True
        clips = [Clip(np.zeros((1, 4, 4, 3), np.uint8), m) for m in (masks, np.concatenate([~masks, masks], axis=1))]
        ids = object_ids(collate(clips, (0, 1)))
        assert ids.shape == (2, 4, 4)
        assert ids[0, 0].tolist() == [1, 1, 0, 0] and ids[1, 0].tolist() == [3, 3, 2, 2]


def test_photographs_are_labelled(tmp_path):
    photographs = [tmp_path / f"{name}.png" for name in "ab"]
    for path in photographs:
        Image.effect_noise((80, 60), 50).save(path)
    out = tmp_path / "out"
    results = list(label_photographs.label(photographs[:1], FakePredictor(), out))
    results += label_photographs.label(photographs, FakePredictor(), out)  # continues
    assert results == [(photographs[0], 2), (photographs[0], 0), (photographs[1], 2)]
    videos = PNGRawDataset(out / "JPEGImages", out / "Annotations", is_palette=False)
    assert videos.video_names == ["a_png", "b_png"]
    video = videos.get_video(0)
    masks = video.read_masks(0, video.visible_objects(0), (60, 80))
    assert masks.sum(axis=(1, 2)).tolist() == [60 * 40, 60 * 20] and not masks.all(axis=0).any()
