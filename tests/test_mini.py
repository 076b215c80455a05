"""mini: its files, and its architecture beside the official modules."""

import hashlib
import json

from video import build_video_pair, clip, compare, jpeg_folder, run, run_official

from sam2fast import build_sam2_video_predictor, mini
from sam2fast.checkpoints import guess_config, read_checkpoint

# Of the official tiny model's configuration, what mini has otherwise.
CHANGED = (
    "++model.image_encoder.scalp=0",
    "++model.image_encoder.trunk.stages=[1,2,7]",
    "++model.image_encoder.trunk.q_pool=2",
    "++model.image_encoder.trunk.window_spec=[8,4,16]",
    "++model.image_encoder.neck.backbone_channel_list=[384,192,96]",
    "++model.image_encoder.neck.fpn_top_down_levels=[]",
    "++model.memory_attention.layer.dim_feedforward=1024",
    "++model.memory_attention.layer.dropout=0.0",
    "++model.memory_attention.layer.self_attention.dropout=0.0",
    "++model.memory_attention.layer.cross_attention.dropout=0.0",
)


def test_files():
    """Int8 and fp16 files that one index joins."""
    index = json.loads(mini.WEIGHTS.read_text())
    for name, digest in index["metadata"]["sha256"].items():
        content = mini.WEIGHTS.with_name(name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest and len(content) < 18e6
    weights = read_checkpoint(mini.WEIGHTS)
    assert guess_config(weights) == index["metadata"]["config"] == mini.CONFIG
    assert all(weight.isfinite().all() for weight in weights.values())


def scenario(session):
    session.points(0, 1, (60, 40, 1))
    session.points(0, 2, box=[20, 20, 70, 60])
    session.propagate()
    session.points(2, 1, (50, 50, 0))
    session.propagate()


def test_parity(tmp_path):
    """Mini's configuration is the official tiny one with these changes: the official modules give the same masks."""
    official, _ = build_video_pair("sam2.1_t", CHANGED, image_size=256)
    ours = build_sam2_video_predictor(mini.CONFIG, None, device="cpu", hydra_overrides_extra=["++model.image_size=256"])
    ours.load_state_dict(official.state_dict(), strict=True)
    video = jpeg_folder(tmp_path / "video", clip(4))
    compare(run_official(official, video, scenario, check_itself=False), run(ours, video, scenario))
