"""The encoder cache: equal features on hits and misses, separate for each set of weights, within its limit."""

import os
import time

import pytest
import torch
from small_training import assert_same, build, checkpoint_of
from torch import nn

from sam2fast.config import ConfigError
from sam2fast.io.atomic import STALE_AFTER_SECONDS
from sam2fast.training.feature_cache import EncoderCache, EncoderCacheConf

FROZEN = ("+trainer.model.freeze_image_encoder=true", "+trainer.model.freeze=[sam_mask_decoder.conv_s*]")


class Encoder(nn.Module):
    """Two levels of a frame from frozen weights; accepts one frame at a time."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.1), requires_grad=False)

    def forward(self, frames):
        assert len(frames) == 1 and not self.training
        level = frames.permute(0, 3, 1, 2).float() * self.weight
        return [level, level.mean((2, 3), keepdim=True)]


def cache(encoder, **conf):
    return EncoderCache(EncoderCacheConf(**conf), encoder, {"encoder": encoder})  # type: ignore[arg-type]


def frames(*seeds):
    return torch.stack(
        [torch.randint(256, (8, 8, 3), generator=torch.Generator().manual_seed(s), dtype=torch.uint8) for s in seeds]
    )


def expected(weight, *seeds):
    return (frames(*seeds).permute(0, 3, 1, 2).float() * torch.tensor(weight)).half().float()


@pytest.mark.parametrize("folder", [False, True])
def test_each_frame_is_encoded_once(folder, tmp_path):
    encoder = Encoder().train()
    kept = cache(encoder, folder=str(tmp_path) if folder else None)
    first = kept(frames(1, 2, 1))
    assert (kept.found, kept.computed) == (0, 2) and encoder.training
    assert_same(first[:1], [expected(0.1, 1, 2, 1)])
    second = kept(frames(2, 3, 1))
    assert (kept.found, kept.computed) == (2, 3)
    assert_same(second[:1], [expected(0.1, 2, 3, 1)])
    assert_same([level[0] for level in first], [level[2] for level in second])


def test_frames_over_the_limit_are_encoded_each_time(caplog):
    size = 2 * (3 * 8 * 8 + 3)  # bytes of a frame's levels
    kept = cache(Encoder(), gigabytes=1.5 * size / 1e9)
    for _ in range(2):
        assert_same(kept(frames(1, 2, 3))[:1], [expected(0.1, 1, 2, 3)])
    assert (kept.found, kept.computed) == (1, 5)
    assert caplog.text.count("are full") == 1


def test_later_runs_reuse_a_folder_within_its_limit(tmp_path):
    cache(Encoder(), folder=str(tmp_path))(frames(1, 2))
    size = sum(file.stat().st_size for file in tmp_path.rglob("*.npz"))
    later = cache(Encoder(), folder=str(tmp_path), gigabytes=size / 1e9)
    assert_same(later(frames(2, 1, 3))[:1], [expected(0.1, 2, 1, 3)])
    assert (later.found, later.computed) == (2, 1)
    assert len(list(tmp_path.rglob("*.*"))) == 2, "a third file, or one that was not finished"


@pytest.mark.parametrize("folder", [False, True])
def test_other_weights_and_precisions_have_features_of_their_own(folder, tmp_path):
    encoder = Encoder()
    kept = cache(encoder, folder=str(tmp_path) if folder else None)
    kept(frames(1))
    with torch.autocast("cpu", torch.bfloat16):
        kept(frames(1))
        kept(frames(1))
    assert (kept.found, kept.computed) == (1, 2)
    encoder.load_state_dict({"weight": torch.tensor(0.3)})
    kept.clear()
    assert_same(kept(frames(1))[:1], [expected(0.3, 1)])
    assert (kept.found, kept.computed) == (1, 3)


def test_a_damaged_file_is_replaced(tmp_path, caplog):
    cache(Encoder(), folder=str(tmp_path))(frames(1))
    (path,) = tmp_path.rglob("*.npz")
    whole = path.read_bytes()
    for damaged in (whole[:100], whole[:150] + b"x" + whole[151:]):
        path.write_bytes(damaged)
        later = cache(Encoder(), folder=str(tmp_path))
        assert_same(later(frames(1))[:1], [expected(0.1, 1)])
        assert later.computed == 1 and "damaged" in caplog.text
        assert cache(Encoder(), folder=str(tmp_path))(frames(1)) and path.stat().st_size == len(whole)


def test_files_of_killed_runs_are_removed(tmp_path):
    cache(Encoder(), folder=str(tmp_path))(frames(1))
    (folder,) = tmp_path.iterdir()
    for name, age in (("old", 2 * STALE_AFTER_SECONDS), ("young", 0.0)):
        path = folder / f".{name}.1.part"
        path.write_bytes(b"x")
        os.utime(path, (time.time() - age,) * 2)
    later = cache(Encoder(), folder=str(tmp_path))
    assert_same(later(frames(1))[:1], [expected(0.1, 1)])
    assert later.computed == 0 and [path.stem for path in folder.glob(".*.part")] == [".young.1"]


def options(folder=None):
    where = "null" if folder is None else str(folder)
    return (*FROZEN, f"+trainer.model.encoder_cache={{folder: {where}}}")


def test_training_is_the_same_with_cache_hits(tmp_path):
    """Without interruption in memory, and resumed with a folder, where some frames are cached."""
    short = ("scratch.updates=3", "+trainer.mode=train_only")
    build(tmp_path / "a", *options(), *short).run()
    first = build(tmp_path / "b", *options(tmp_path / "features"), *short)
    first.run(lambda: first.steps == 1)
    second = build(tmp_path / "b", *options(tmp_path / "features"), *short)
    second.run()
    assert second.model.encoder_cache is not None and second.model.encoder_cache.found > 0
    assert_same(*(checkpoint_of(tmp_path / name)["model"] for name in "ab"))


def test_features_are_the_encoders_and_those_of_the_current_weights(tmp_path):
    trainer = build(tmp_path, *options())
    model, batch = trainer.model, next(iter(trainer.data["train"].epoch(0)))
    with torch.no_grad():
        kept = model(batch).levels
        model.load_state_dict({name: 2 * value for name, value in model.state_dict().items()})
        other = model(batch).levels
        model.encoder_cache = None
        plain = model(batch).levels
    assert not torch.equal(other[-1], kept[-1])
    torch.testing.assert_close(other, plain, rtol=2**-10, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ([], "70 of .* image_encoder.trunk.pos_embed; freeze image_encoder"),
        (FROZEN[:1], "4 of .* sam_mask_decoder.conv_s0.weight"),
        (
            ["+trainer.model.adapters={rank: 2, targets: [image_encoder.trunk.blocks.0.attn.qkv]}"],
            "2 of .*trunk.blocks.0.attn.qkv",
        ),
        (["+trainer.model.encoder_cache.gigabytes=0"], "gigabytes"),
    ],
)
def test_refusals(changes, named, tmp_path):
    with pytest.raises(ConfigError, match=named):
        build(tmp_path, "+trainer.model.encoder_cache={}", *changes)
