"""Files that contain code: every reader of the package refuses them with an error, and runs nothing."""

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import moving_shapes
import numpy as np
import pytest
import torch
from hostile import touches
from PIL import EpsImagePlugin, UnidentifiedImageError
from targets import TARGETS

from sam2fast import nano
from sam2fast.build_sam import build_sam2
from sam2fast.checkpoints import CheckpointError
from sam2fast.compat.misc import _load_img_as_tensor
from sam2fast.config import ConfigError, build_from_config, load_config
from sam2fast.io.images import open_image
from sam2fast.sam2_image_predictor import SAM2ImagePredictor
from sam2fast.training import feature_cache
from sam2fast.training.config import build_trainer, load_training_config
from sam2fast.video_io import VideoError, open_frames


@pytest.fixture
def canary(tmp_path):
    path = tmp_path / "canary"
    yield path
    assert not path.exists(), "something in the file was run"


def torch_file(canary: Path, file: Path, legacy: bool) -> Path:
    """A file of ``torch.save`` with weights and a hostile object."""
    content = {"model": {"x": torch.ones(2)}, "optimizer": {}, "steps": 1, "more": touches(canary)}
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    return file


# Of the fuzzer's readers, those that can meet a pickle, under any name.
READERS = [
    *("read_checkpoint", "load_checkpoint", "load_partial", "choose_config", "convert_checkpoint"),
    *("training checkpoint", "load_state", "restore_stream"),
]


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", ["x.pt", "x.safetensors"])
@pytest.mark.parametrize("reader", READERS)
def test_pickles(reader: str, name: str, legacy: bool, canary: Path, tmp_path: Path):
    with pytest.raises(TARGETS[reader].allowed, match=name) as caught:
        TARGETS[reader].read(torch_file(canary, tmp_path / name, legacy))
    assert "weights_only=False" not in str(caught.value)


@pytest.mark.parametrize("name", ["x.pt", "x.safetensors"])
@pytest.mark.parametrize("build", [build_sam2, SAM2ImagePredictor.from_pretrained])
def test_models_from_pickles(build: Callable[..., Any], name: str, canary: Path, tmp_path: Path):
    """Of ``torch.save`` and of Python."""
    config = (nano.CONFIG,) if build is build_sam2 else ()
    (tmp_path / name).write_bytes(pickle.dumps({"model": touches(canary)}))
    for file in (tmp_path / name, torch_file(canary, tmp_path / f"torch_{name}", False)):
        with pytest.raises(CheckpointError, match=f"{file.name} .*could run code, and was not loaded"):
            build(*config, file, device="cpu")


def test_python_alone_would_run_it(tmp_path: Path):
    torch.load(torch_file(tmp_path / "ran", tmp_path / "x.pt", False), weights_only=False)
    assert (tmp_path / "ran").exists()


def test_arrays_of_objects_among_kept_features(canary: Path, tmp_path: Path):
    """Others may write to a cache folder."""
    feature_cache.write_levels(tmp_path / "x.npz", [torch.ones(2), torch.zeros(3)])
    content = io.BytesIO()
    np.save(content, np.array([touches(canary)], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(tmp_path / "x.npz") as archive:
        names = archive.namelist()
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        for name in names:
            archive.writestr(name, content.getvalue())
    with pytest.raises((ValueError, OSError)):
        feature_cache.read_levels(tmp_path / "x.npz")


CALLABLES = [
    "os.system",
    "builtins.eval",
    "subprocess.Popen",
    "sam2fast.config.instantiate",
    "sam2fast.build_sam.torch.hub.load",
    "sam2fast.modeling.hiera.F.__builtins__.eval",
    "sam2.modeling.sam2_base.torch.load",
    "torch.optim.lr_scheduler.torch.load",
    "torch.utils.data.dataloader.os.system",
    "training.trainer.os.system",
]


@pytest.mark.parametrize("target", CALLABLES)
def test_targets(target: str, canary: Path, tmp_path: Path):
    """In configurations of models and of trainings, also under the official names, and in overrides."""
    call = f"{{_target_: {target}, _args_: ['touch {canary}']}}"
    model, training = tmp_path / "model.yaml", tmp_path / "training.yaml"
    for place in ("image_encoder", "more"):
        model.write_text(f"base_config: {nano.CONFIG}\nmodel:\n  {place}: {call}\n")
        with pytest.raises(ConfigError, match="not part of SAM 2"):
            build_sam2(str(model), None, device="cpu")
    with pytest.raises(ConfigError, match="not part of SAM 2"):
        build_sam2(nano.CONFIG, None, device="cpu", hydra_overrides_extra=[f"++model.more={{_target_:{target}}}"])
    training.write_text(
        f"base_config: nano/sam2fast_nano_own_masks\ntrainer: {{more: {call}}}\n"
        f"dataset: {{img_folder: {tmp_path}, gt_folder: {tmp_path}}}\n"
    )
    with pytest.raises(ConfigError, match="not part of SAM 2"):
        build_trainer(load_training_config(str(training)))


@pytest.mark.parametrize(
    "text",
    [
        "model: !!python/object/apply:os.system ['touch {canary}']",
        "model: !!python/object/new:os.system ['touch {canary}']",
        "!!python/object/apply:os.system ['touch {canary}']",
        "model: !!python/name:os.system",
        "model: !!python/module:os",
        "model: {{_target_: '\\${{x}}', x: os.system}}",
        "model: {{_target_: sam2fast.modeling.sam2_base.SAM2Base, x: ['\\${{oc.env:HOME}}']}}",
    ],
)
def test_tags_and_escaped_interpolations(text: str, canary: Path, tmp_path: Path):
    (tmp_path / "x.yaml").write_text(text.format(canary=canary))
    with pytest.raises(ConfigError):
        build_from_config(load_config(str(tmp_path / "x.yaml")).model)


@pytest.fixture
def ghostscript(canary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program of this name that writes the canary file."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/gs"
    program.write_text(f"#!/bin/sh\ntouch {canary}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    monkeypatch.setattr(EpsImagePlugin, "gs_windows_binary", None)


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.mark.usefixtures("ghostscript")
@pytest.mark.parametrize(
    "read",
    [
        *(TARGETS[name].read for name in ("to_pixels", "image of training", "labels of training")),
        lambda path: open_frames(path.parent, 32)[0],
        lambda path: _load_img_as_tensor(path, 32),
        open_image,
    ],
)
def test_postscript_by_any_name_runs_no_ghostscript(read: Callable[[Path], None], tmp_path: Path):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "00000.jpg").write_bytes(POSTSCRIPT)
    with pytest.raises((ValueError, OSError), match="EPS files are not supported; convert the image|can be read as"):
        read(folder / "00000.jpg")


def test_refused_formats():
    header = b"8BPS\x00\x01" + bytes(6) + b"\x00\x03" + b"\x00\x00\x00\x01" * 2 + b"\x00\x08\x00\x03" + bytes(14)
    with pytest.raises(UnidentifiedImageError, match="PSD files are not supported"):
        open_image(io.BytesIO(header))
    with open_image(io.BytesIO(b"P5 1 1 255 \x07")) as image:  # other formats work as with Pillow
        assert image.getpixel((0, 0)) == 7


LISTS = {
    "concat": "ffconcat version 1.0\nfile video.mp4\n",
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nvideo.mp4\n#EXT-X-ENDLIST\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
    "m=video 9 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><Period/></MPD>',
}


@pytest.mark.parametrize("as_bytes", [False, True], ids=["path", "bytes"])
@pytest.mark.parametrize("kind", LISTS)
def test_playlists_are_refused(kind: str, as_bytes: bool, tmp_path, monkeypatch):
    """Under any name: playlists would read other files, or wait a minute for the network."""
    monkeypatch.chdir(tmp_path)
    moving_shapes.write_video(tmp_path / "video.mp4", moving_shapes.make_frames(3))
    (tmp_path / "list.mp4").write_text(LISTS[kind])
    given = LISTS[kind].encode() if as_bytes else "list.mp4"
    with pytest.raises(VideoError, match="cannot be read as a video"):
        open_frames(given, 32)
    assert len(open_frames("video.mp4", 32)) == 3
