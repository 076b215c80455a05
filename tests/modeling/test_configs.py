"""Configurations: every official name and value, nothing foreign, and Hydra's global state untouched."""

import importlib
import subprocess
import sys
import textwrap
from pathlib import Path

import oracle  # noqa: F401  (makes the official package importable)
import pytest
import sam2
import torch
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import OmegaConf
from parity import NARROW, NothingDrawn, config_name
from sam2.build_sam import build_sam2 as official_build_sam2

from sam2fast._official_names import RELEASES
from sam2fast.build_sam import build_sam2, build_sam2_video_predictor
from sam2fast.config import ConfigError, build_from_config, load_config, official_to_ours, shipped_configs
from sam2fast.modeling.sam2_base import SAM2Base
from sam2fast.tracking.strategies import Dam4Sam, Samurai

SIZES = [f"{generation}_{letter}" for generation in ("sam2", "sam2.1") for letter in ("t", "s", "b+", "l")]
TINY = "configs/sam2.1/sam2.1_hiera_t.yaml"


def with_our_targets(value):
    if isinstance(value, dict):
        return {k: official_to_ours(v) if k == "_target_" else with_our_targets(v) for k, v in value.items()}
    return [with_our_targets(v) for v in value] if isinstance(value, list) else value


@pytest.mark.parametrize("size", SIZES)
def test_same_keys_and_values_as_the_official_file(size):
    official = OmegaConf.load(Path(sam2.__path__[0]) / config_name(size))
    ours = load_config(config_name(size))
    assert with_our_targets(OmegaConf.to_container(official)) == OmegaConf.to_container(ours)


def official_model(size, monkeypatch):
    """With parameters as they are allocated; nothing is written into them."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)
    with NothingDrawn():
        return instantiate(OmegaConf.load(Path(sam2.__path__[0]) / config_name(size)).model, _recursive_=True)


@pytest.mark.parametrize("size", SIZES)
def test_same_state_dict_and_eps_as_the_official_model(size, monkeypatch):
    """A tenfold eps moves results by less than parity at 1e-4 would see."""
    official = official_model(size, monkeypatch)
    with torch.device("meta"):
        ours = build_from_config(load_config(config_name(size)).model)
    expected, actual = ({k: v.shape for k, v in model.state_dict().items()} for model in (official, ours))
    assert expected == actual
    eps = [{name: m.eps for name, m in model.named_modules() if hasattr(m, "eps")} for model in (official, ours)]
    assert eps[0] == eps[1] and len(eps[0]) > 50


@pytest.mark.parametrize(
    ("name", "official"),
    [
        *((name, TINY) for name in ("configs/sam2.1/sam2.1_hiera_t", "sam2.1/sam2.1_hiera_t.yaml", "sam2.1_hiera_t")),
        *((f"sam2_hiera_{letter}.yaml", f"configs/sam2/sam2_hiera_{letter}.yaml") for letter in ("t", "s", "b+", "l")),
    ],
)
def test_spellings_of_a_name(name, official):
    """With parts left out, as in old scripts."""
    assert load_config(name) == load_config(official)


def test_a_custom_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(OmegaConf.to_yaml(load_config(TINY)).replace("image_size: 1024", "image_size: 512"))
    assert load_config(path).model.image_size == 512
    assert load_config(str(path)).model.image_size == 512


def test_the_official_files_themselves_can_be_used():
    path = Path(sam2.__path__[0]) / TINY
    assert type(build_sam2(path, None, device="cpu")).__module__ == "sam2fast.modeling.sam2_base"


def test_a_configuration_of_the_hydra_folder_wins_as_in_the_original(tmp_path):
    """Also over the name of a shipped one; with its list of defaults."""
    official = Path(sam2.__path__[0]) / TINY
    (tmp_path / "base.yaml").write_text(official.read_text())
    own = "# @package _global_\ndefaults: [base, _self_]\nmodel:\n  image_size: 256\n"
    (tmp_path / "sam2.1_hiera_t.yaml").write_text(own)
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(tmp_path), version_base="1.2"):
            sizes = [
                build("sam2.1_hiera_t.yaml", device="cpu", hydra_overrides_extra=["model.num_maskmem=5"]).image_size
                for build in (official_build_sam2, build_sam2)
            ]
            assert load_config(TINY).model.image_size == 1024
    finally:
        GlobalHydra.instance().hydra = before
    assert sizes == [256, 256] and load_config("sam2.1_hiera_t.yaml").model.image_size == 1024


@pytest.mark.parametrize("letter", ["t", "s", "b+", "l"])
def test_samurais_configurations_are_ours(letter):
    assert load_config(f"configs/samurai/sam2.1_hiera_{letter}.yaml") == load_config(f"sam2.1/sam2.1_hiera_{letter}")


def test_samurais_configurations_build_predictors_with_its_strategy():
    name, small = "samurai/sam2.1_hiera_t", [*NARROW, "++model.image_size=64"]
    assert isinstance(build_sam2_video_predictor(name, None, "cpu", hydra_overrides_extra=small).strategy, Samurai)
    another = build_sam2_video_predictor(name, None, "cpu", hydra_overrides_extra=small, strategy="dam4sam")
    assert isinstance(another.strategy, Dam4Sam)
    assert type(build_sam2(name, None, "cpu", hydra_overrides_extra=small)) is SAM2Base


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("configs/sam2.1/sam2.1_hiera_t_512.yaml", "sam2.1_hiera_t"),  # segment-anything-2-real-time
        ("sam2_hiera_b+_512", "sam2_hiera_b+"),
        ("efficienttam_ti_512.yaml", "efficienttam_ti"),  # MedSAM2
        ("configs/efficienttam/efficienttam_s_512.yaml", "efficienttam_s"),
    ],
)
def test_names_for_512_pixels(name, ours):
    assert load_config(name) == load_config(ours, ["model.image_size=512"])


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("sam2.1_hiera_xl", "the most similar one is sam2.1/sam2.1_hiera_l"),
        ("sam2.1_hiera_base_plus.yaml", "the most similar one is sam2.1/sam2.1_hiera_b+"),
        ("/nowhere/sam2/sam2_hiera_s.yaml", "the most similar one is sam2/sam2_hiera_s"),
        ("sam21pp_hiera_l.yaml", 'it belongs to DAM4SAM: use sam2.1_hiera_l and strategy="dam4sam"'),
        ("sam2pp_hiera_b+", 'it belongs to DAM4SAM: use sam2_hiera_b+ and strategy="dam4sam"'),
        ("configs/sam2.1_hiera_tiny_finetune512.yaml", "it trains MedSAM2, whose model is sam2.1_hiera_t512"),
        ("sam2.1_training/MOSE_finetune.yaml", "`sam2fast train -c` takes training configurations"),
        ("training/configs/mine.yaml", "`sam2fast train -c` takes training configurations"),
        ("mine", "none is similar"),
    ],
)
def test_an_unknown_name_says_what_to_use_and_lists_what_there_is(name, instead):
    with pytest.raises(FileNotFoundError) as failed:
        load_config(name)
    first, second = str(failed.value).split("; shipped configurations: ")
    assert first == f"no file {name!r}, and no such configuration; {instead}" or instead in first
    assert second.startswith("edgetam/edgetam, efficienttam/efficienttam_s, ")


def test_a_training_configuration_builds_no_model():
    name = "configs/sam2.1_training/sam2.1_hiera_b+_MOSE_finetune.yaml"
    with pytest.raises(ConfigError, match=r"MOSE_finetune.yaml trains a model: give it to `sam2fast train -c`"):
        build_sam2(name, device="cpu")


def test_every_release_has_its_configuration():
    official = {name for name in shipped_configs() if not name.startswith(("mini/", "nano/", "sam3/"))}
    assert {release.config for release in RELEASES.values()} == {f"configs/{name}.yaml" for name in official}


class TestOverrides:
    def test_change_add_and_delete(self):
        config = load_config(
            TINY,
            [
                "model.image_size=512",
                "+model.max_cond_frames_in_attn=4",
                "++model.num_maskmem=3",
                "~model.pred_obj_scores",
            ],
        )
        assert (config.model.image_size, config.model.max_cond_frames_in_attn, config.model.num_maskmem) == (512, 4, 3)
        assert "pred_obj_scores" not in config.model

    def test_missing_values_can_be_given(self, tmp_path):
        path = tmp_path / "open.yaml"
        path.write_text("model:\n  image_size: ???\n")
        assert load_config(path, ["model.image_size=64"]).model.image_size == 64
        with pytest.raises(ConfigError, match="not complete: .*image_size"):
            build_from_config(load_config(path).model)

    def test_a_whole_node(self):
        config = load_config(TINY, ["++model.sam_mask_decoder_extra_args={dynamic_multimask_via_stability: true}"])
        assert config.model.sam_mask_decoder_extra_args == {"dynamic_multimask_via_stability": True}

    def test_an_element_of_a_list(self):
        config = load_config(TINY, ["~model.image_encoder.neck.backbone_channel_list.1"])
        before = load_config(TINY).model.image_encoder.neck.backbone_channel_list
        assert config.model.image_encoder.neck.backbone_channel_list == [before[0], *before[2:]]

    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("model.imagesize=512", "imagesize.*does not exist"),
            ("+model.image_size=512", "which exists"),
            ("~model.imagesize", "does not exist"),
            ("model.image_size=1,2", "sweep"),
            ("model.image_size", "image_size"),
        ],
    )
    def test_what_does_not_fit(self, override, message):
        with pytest.raises(ConfigError, match=message):
            load_config(TINY, [override])

    def test_the_callers_list_is_not_changed_and_postprocessing_wins(self):
        overrides = [
            "++model.sam_mask_decoder_extra_args.dynamic_multimask_stability_thresh=0.5",
            "++model.image_size=256",
        ]
        model = build_sam2(TINY, None, device="cpu", hydra_overrides_extra=overrides)
        assert model.sam_mask_decoder.dynamic_multimask_stability_thresh == 0.98
        assert len(overrides) == 2
        plain = build_sam2(TINY, None, device="cpu", hydra_overrides_extra=overrides, apply_postprocessing=False)
        assert not plain.sam_mask_decoder.dynamic_multimask_via_stability
        assert plain.sam_mask_decoder.dynamic_multimask_stability_thresh == 0.5


class TestForeignTargets:
    @pytest.mark.parametrize("target", ["os.system", "builtins.eval", "hydra.utils.get_method", "sam2.nothing.Here"])
    def test_are_refused(self, target, tmp_path):
        marker = tmp_path / "called"
        config = load_config(TINY)
        config.model.image_encoder.trunk = {"_target_": target, "_args_": [f"touch {marker}"]}
        with pytest.raises(ConfigError, match=target.replace(".", r"\.")):
            build_from_config(config.model)
        assert not marker.exists()

    def test_are_found_in_lists_and_behind_interpolations(self):
        config = OmegaConf.create({"name": "os.getcwd", "model": {"_target_": TARGET, "x": [{"_target_": "${name}"}]}})
        with pytest.raises(ConfigError, match="os.getcwd"):
            build_from_config(config.model)

    def test_a_custom_class_must_be_allowed(self):
        config = load_config(TINY, ["++model.image_size=256", "model._target_=collections.OrderedDict"])
        with pytest.raises(ConfigError, match="allow_targets"):
            build_from_config(config.model)
        assert build_from_config(config.model, allow_targets=["collections"])["image_size"] == 256

    @pytest.fixture
    def own_package(self, tmp_path, monkeypatch):
        """Subclasses of the official model and of ours."""
        (tmp_path / "own_models.py").write_text(
            "import sam2.modeling.sam2_base, sam2fast.modeling.sam2_base\n"
            "class Official(sam2.modeling.sam2_base.SAM2Base): pass\n"
            "class Ours(sam2fast.modeling.sam2_base.SAM2Base): pass\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        yield importlib.import_module("own_models")
        del sys.modules["own_models"]

    @pytest.mark.parametrize("allowed", ["own_models", "own_models.", "own_models.Ours"])
    def test_a_subclass_of_the_model(self, own_package, allowed):
        """It is built as the official package builds its own subclass."""
        target, common = "++model._target_=own_models.", {"device": "cpu", "apply_postprocessing": False}
        with NothingDrawn():
            expected = official_build_sam2(TINY, hydra_overrides_extra=[f"{target}Official"], **common)
            actual = build_sam2(TINY, hydra_overrides_extra=[f"{target}Ours"], allow_targets=[allowed], **common)
        assert (type(expected), type(actual)) == (own_package.Official, own_package.Ours)
        assert {k: v.shape for k, v in expected.state_dict().items()} == {
            k: v.shape for k, v in actual.state_dict().items()
        }

    @pytest.mark.parametrize("allowed", ["own_model", "own_model.", "own_models.Our", "own_models.Ours.x", "", "."])
    def test_a_prefix_ends_at_a_dot(self, allowed):
        config = load_config(TINY, ["++model._target_=own_models.Ours"])
        with pytest.raises(ConfigError, match="own_models.Ours.*allow_targets"):
            build_from_config(config.model, allow_targets=[allowed])


TARGET = "sam2fast.modeling.sam2_base.SAM2Base"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1\n- 2\n", "list"),
        ("defaults: [base]\nmodel: {}\n", "defaults"),
        ("other: 1\n", "no 'model'"),
        ("model:\n  _target_: " + TARGET + "\n  nonsense: 1\n", "nonsense|missing"),
        ("\x00\x01", "configuration"),
    ],
    ids=["list", "defaults", "no model", "arguments", "binary"],
)
def test_files_that_are_no_configuration(text, message, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        build_sam2(path, None, device="cpu")


def test_values_that_exclude_each_other():
    with pytest.raises(ConfigError, match="multiple of 32"):
        build_sam2(TINY, None, device="cpu", hydra_overrides_extra=["++model.image_size=1000"])
    with pytest.raises(ConfigError, match="backbone_channel_list"):
        build_sam2(TINY, None, device="cpu", hydra_overrides_extra=["model.image_encoder.trunk.embed_dim=48"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.image_encoder.trunk.num_heads=one", "num_heads of Hiera must be an integer, got 'one'"),
        ("++model.use_high_res_features_in_sam=no", "use_high_res_features_in_sam of SAM2Base must be true or false"),
    ],
)
def test_text_for_numbers_and_switches(override, message):
    """``no`` is text on a command line, and true in Python."""
    with pytest.raises(ConfigError, match=message):
        build_sam2(TINY, None, device="cpu", hydra_overrides_extra=[override])


@pytest.mark.parametrize("first", ["ours", "official"])
def test_hydras_global_state_is_untouched(first):
    """Both packages build their models in one process, whichever is imported first."""
    ours = "from sam2fast import build_sam2 as build_ours"
    official = "import oracle; from sam2.build_sam import build_sam2 as build_official"
    script = textwrap.dedent(f"""
        import sys; sys.path.insert(0, "tests/support")
        from hydra.core.global_hydra import GlobalHydra
        {ours if first == "ours" else official}
        if {first == "ours"!r}:
            build_ours("{TINY}", None, device="cpu", hydra_overrides_extra={NARROW})
            assert not GlobalHydra.instance().is_initialized()
        {official if first == "ours" else ours}
        arguments = dict(device="cpu", hydra_overrides_extra={list(NARROW)})
        a, b = build_ours("{TINY}", None, **arguments), build_official("{TINY}", None, **arguments)
        print(type(a).__module__, type(b).__module__)
    """)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.split() == ["sam2fast.modeling.sam2_base", "sam2.modeling.sam2_base"], done.stderr


@pytest.mark.parametrize("slashes", range(1, 6))
def test_no_interpolation_survives_to_call_something(tmp_path, slashes):
    """However often a node is resolved, its target is checked."""
    victim = tmp_path / "touched"
    hidden = "\\" * slashes + "${oc.create:{_target_: pathlib.Path.touch, _args_: [" + str(victim) + "]}}"
    config = load_config(TINY)
    config.model.sam_mask_decoder_extra_args = {"activation": hidden}
    with pytest.raises(ConfigError):
        build_from_config(config.model)
    assert not victim.exists()


def test_no_interpolation_survives_in_a_key():
    with pytest.raises(ConfigError, match="interpolations cannot be escaped"):
        build_from_config(OmegaConf.create({"_target_": TARGET, "x": [{"${oc.env:HOME}": 1}]}))
