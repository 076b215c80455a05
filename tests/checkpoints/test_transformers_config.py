"""config.json of transformers: its content, and which values of an existing one are applied or refused."""

import json

import pytest
from checkpoint_files import OFFICIAL

from sam2fast import nano
from sam2fast.build_sam import build_sam2
from sam2fast.checkpoints import CheckpointError, NoConfigError
from sam2fast.checkpoints.transformers_config import overrides_from, transformers_config
from sam2fast.config import ConfigError

EDGETAM, SAM3 = "configs/edgetam/edgetam.yaml", "configs/sam3/sam3.yaml"
TINY, BASE, TINY_2 = "configs/sam2.1/sam2.1_hiera_t.yaml", "configs/sam2.1/sam2.1_hiera_b+.yaml", "sam2_hiera_t"


def with_values(config: dict, **values) -> dict:
    """A copy with some values changed, by dotted names with __ for the dots."""
    out = json.loads(json.dumps(config))
    for name, value in values.items():
        *above, last = name.split("__")
        node = out
        for key in above:
            node = node[key]
        node[last] = value
    return out


@pytest.fixture
def overrides(tmp_path):
    def of(content, config: str) -> tuple[str, ...]:
        file = tmp_path / "config.json"
        file.write_text(content if isinstance(content, str) else json.dumps(content))
        return overrides_from(file, config)

    return of


@pytest.mark.parametrize(
    ("config", "video"),
    [
        *((config, True) for config in [*OFFICIAL, nano.CONFIG, EDGETAM, SAM3]),
        *((c, False) for c in (nano.CONFIG, EDGETAM, SAM3)),
    ],
)
def test_a_written_config_needs_no_override(config, video, overrides):
    assert overrides(transformers_config(config, video=video), config) == ()


def test_the_number_of_point_embeddings_is_the_models():
    encoder = build_sam2(nano.CONFIG, nano.WEIGHTS, device="cpu").sam_prompt_encoder
    assert transformers_config(nano.CONFIG)["prompt_encoder_config"]["num_point_embeddings"] == len(
        encoder.point_embeddings
    )


def test_omitted_values_are_those_of_tiny(overrides):
    assert overrides({"model_type": "sam2_video"}, TINY) == ()
    assert overrides({"model_type": "sam2", "vision_config": None}, TINY) == ()


def test_edgetam(overrides):
    found = transformers_config(EDGETAM)
    assert found["architectures"] == ["EdgeTamVideoModel"] and "memory_attention_feed_forward_hidden_size" not in found
    assert overrides(found | {"max_cond_frame_num": 4}, EDGETAM) == ("++model.max_cond_frames_in_attn=4",)


def test_sam3(overrides):
    """The whole SAM 3 has the tracker's configuration below a key, and that of its image encoder below another."""
    found = transformers_config(SAM3)
    assert found["architectures"] == ["Sam3TrackerVideoModel"]
    assert overrides({"model_type": "sam3_tracker_video"}, SAM3) == ()
    whole = {"model_type": "sam3_video", "tracker_config": found}
    assert overrides(whole, SAM3) == ()
    whole = with_values(whole, tracker_config__vision_config__backbone_config__layer_norm_eps=1e-5)
    assert overrides(whole, SAM3) == ("++model.image_encoder.trunk.norm_eps=1e-05",)
    epsilon = with_values(found, vision_config__backbone_config__layer_norm_eps=1e-4)
    whole["detector_config"] = {"vision_config": epsilon["vision_config"]}
    assert overrides(whole, SAM3) == ("++model.image_encoder.trunk.norm_eps=0.0001",)
    smaller = transformers_config(SAM3, ("++model.image_size=504",))
    assert smaller["vision_config"]["backbone_feature_sizes"] == [[144, 144], [72, 72], [36, 36]]
    assert overrides(smaller, SAM3) == ("++model.image_size=504",)


def test_the_image_size_is_obeyed(overrides):
    config = transformers_config(TINY, ("++model.image_size=512",))
    assert config["memory_attention_rope_feat_sizes"] == [32, 32]
    assert config["vision_config"]["backbone_feature_sizes"] == [[128, 128], [64, 64], [32, 32]]
    assert overrides(config, TINY) == ("++model.image_size=512",)
    # Keys that follow from it often keep their defaults.
    assert overrides(with_values(config, memory_attention_rope_feat_sizes=[64, 64]), TINY) == (
        "++model.image_size=512",
    )
    # One number means a square.
    assert overrides(with_values(config, vision_config__backbone_config__image_size=512), TINY)


def test_switches_are_obeyed(overrides):
    changed = with_values(
        transformers_config(TINY),
        max_cond_frame_num=4,
        multimask_output_for_tracking=False,
        sigmoid_scale_for_mem_enc=10.5,
        memory_attention_dropout=0.3,
        something_newer=1,
    )
    assert set(overrides(changed, TINY)) == {
        "++model.max_cond_frames_in_attn=4",
        "++model.multimask_output_for_tracking=false",
        "++model.sigmoid_scale_for_mem_enc=10.5",
    }


VIDEO, TALL = (
    {"model_type": "sam2_video"},
    dict.fromkeys(
        ("vision_config__backbone_config__image_size", "prompt_encoder_config__image_size", "image_size"), [512, 256]
    ),
)


@pytest.mark.parametrize(
    ("config", "content", "word"),
    [
        (TINY, {"vision_config__backbone_config__window_size_per_stage": [8, 4, 16, 8]}, "window_size_per_stage is"),
        (TINY, {"enable_occlusion_spatial_embedding": False}, "False instead of True"),
        (TINY, {"rope_parameters__rope_theta": 500.0}, "rope_theta is 500.0 instead of 10000.0"),
        (TINY, {"mask_decoder_config__hidden_act": "relu"}, "mask_decoder_config.hidden_act is relu"),
        (TINY, {"max_cond_frame_num": "4"}, "max_cond_frame_num = '4', expected a number"),
        (TINY, {"prompt_encoder_config__image_size": 512}, "several image sizes"),
        (TINY, TALL, r"size \[512, 256\], but only squares"),
        (TINY, {"model_type": "edgetam_video"}, "model type 'edgetam_video', expected sam2_video or sam2"),
        (EDGETAM, {"perceiver_resampler_num_latents": 128}, "num_latents is 128 instead of 256"),
        (EDGETAM, {"model_type": "sam2_video"}, "model type 'sam2_video', expected edgetam_video or edgetam"),
        (SAM3, {"vision_config__backbone_config__window_size": 12}, "window_size is 12 instead of 24"),
        (SAM3, {"model_type": "sam3_video"}, "model type 'sam3_video', but has no tracker_config"),
        (BASE, json.dumps(VIDEO), r"embed_dim_per_stage is \[96, 192, 384, 768\] instead of \[112, 224"),
        (TINY_2, json.dumps(VIDEO), "enable_occlusion_spatial_embedding is True instead of False"),
    ],
    ids=str,
)
def test_another_model_is_refused(config, content, word, overrides):
    """``content`` is the whole file, or the changes of the configuration's own."""
    if isinstance(content, dict):
        content = with_values(transformers_config(config), **content)
    with pytest.raises(NoConfigError, match=word):
        overrides(content, config)


@pytest.mark.parametrize(("content", "word"), [("{", "no JSON"), ("[1]", "expected a mapping")])
def test_a_file_that_is_no_configuration(content, word, overrides):
    with pytest.raises(CheckpointError, match=word):
        overrides(content, TINY)


def test_options_that_transformers_lacks():
    with pytest.raises(ConfigError, match="use_high_res_features_in_sam=False"):
        transformers_config(TINY, ("++model.use_high_res_features_in_sam=false",))
    with pytest.raises(ConfigError, match="backbone_stride=28"):
        transformers_config(SAM3, ("++model.backbone_stride=28",))
