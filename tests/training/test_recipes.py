"""What the shipped recipes train, by the names of the parameters, and configurations that build on others."""

from functools import cache

import pytest
import torch
from omegaconf import OmegaConf
from small_training import build

from sam2fast.checkpoints.loading import is_video_only
from sam2fast.config import ConfigError, build_from_config, load_config
from sam2fast.training.adapters import is_adapter
from sam2fast.training.config import TRAINING_TARGETS, load_training_config
from sam2fast.training.model import SAM2Train

FOLDER = "sam2.1_training/sam2.1_hiera_b+_"
ON_IMAGE_WEIGHTS = "sam2.1_training/sam2_hiera_t_memory_from_image_weights"
MEMORY = {
    "maskmem_tpos_enc",
    "mask_downsample",
    "memory_attention",
    "memory_encoder",
    "no_mem_pos_enc",
    "no_obj_embed_spatial",
    "no_obj_ptr",
    "obj_ptr_proj",
    "obj_ptr_tpos_proj",
}
DECODING = {"no_mem_embed", "sam_mask_decoder", "sam_prompt_encoder"}


def part(name):
    """The part of the model that a parameter belongs to."""
    return name.partition(".")[0]


@cache
def model_of(recipe):
    """The recipe's model at its full width, with uninitialised weights."""
    with torch.device("meta"):
        model: SAM2Train = build_from_config(load_training_config(recipe).trainer.model, targets=TRAINING_TARGETS)
    return model


@pytest.mark.parametrize(
    ("recipe", "learns"),
    [
        (FOLDER + "MOSE_finetune", lambda name: True),
        (FOLDER + "24GB", lambda name: part(name) in MEMORY | DECODING),
        (FOLDER + "memory", lambda name: part(name) in MEMORY),
        (FOLDER + "lora", is_adapter),
        (ON_IMAGE_WEIGHTS, is_video_only),
    ],
)
def test_what_a_recipe_trains(recipe, learns):
    parameters = dict(model_of(recipe).named_parameters())
    if recipe != ON_IMAGE_WEIGHTS:  # SAM 2 has fewer parts than SAM 2.1
        assert {part(name) for name in parameters} == MEMORY | DECODING | {"image_encoder"}
    found = {name for name, parameter in parameters.items() if parameter.requires_grad}
    assert found == {name for name in parameters if learns(name)}
    assert (len(found) == len(parameters)) == ("MOSE" in recipe)


def test_other_settings_of_recipes():
    model = model_of(FOLDER + "24GB")
    assert model.use_act_ckpt_iterative_pt_sampling and not model.use_act_ckpt_image_encoder
    assert load_training_config(FOLDER + "24GB").trainer.optim.accumulate == 8
    model = model_of(ON_IMAGE_WEIGHTS)
    learning = {part(name) for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert not learning & {"image_encoder", "sam_prompt_encoder", "no_mem_embed"}
    assert not any(isinstance(m, torch.nn.Dropout) and m.p for m in model.memory_attention.modules())
    adapters = {name: p for name, p in model_of(FOLDER + "lora").named_parameters() if is_adapter(name)}
    # 24 blocks with two layers each, and four layers with four projections in each of two attentions; two factors each.
    assert len(adapters) == 2 * (24 * 2 + 4 * 4 * 2)
    assert {p.shape[0] for name, p in adapters.items() if ".lora_A." in name} == {16}


@pytest.mark.parametrize(
    "name",
    [
        *(FOLDER + name for name in ("MOSE_finetune", "mixed_finetune", "24GB", "memory", "lora", "own_masks")),
        ON_IMAGE_WEIGHTS,
        "nano/sam2fast_nano_own_masks",
    ],
)
def test_a_run_that_is_killed_loses_little(name):
    initial = "trainer.checkpoint.initialize_from=file.pt"  # the recipe on image weights needs it
    assert 0 < load_training_config(name, [initial]).trainer.checkpoint.save_every_steps <= 50


def test_published_recipes_settings_can_be_changed_by_their_names():
    changes = ["scratch.phases_per_epoch=3", "trainer.distributed.strategy=fsdp", "dataset.file_list_txt=list.txt"]
    trainer = load_training_config(FOLDER + "MOSE_finetune", changes).trainer
    assert trainer.data.train.phases_per_epoch == 3 and trainer.distributed.strategy == "fsdp"
    assert trainer.data.train.datasets[0].dataset.video_dataset.file_list_txt == "list.txt"


class TestClipsOfWhichNothingLearns:
    """They are refused at the first batch, before anything has changed."""

    MEMORY_ALONE = "+trainer.model.freeze=[image_encoder.*, sam_prompt_encoder.*, sam_mask_decoder.*, no_mem_embed]"
    ALL_PROMPTED = (
        "trainer.model.num_init_cond_frames_for_train=2",
        "trainer.model.num_frames_to_correct_for_train=2",
        "+trainer.model.rand_init_cond_frames_for_train=false",
    )

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            (
                [MEMORY_ALONE, "clips.dataset.num_frames=1"],
                "the only frame is prompted, so no memory .* num_frames of 2 or more, or train sam_mask_decoder",
            ),
            (
                [MEMORY_ALONE, *ALL_PROMPTED, "trainer.model.prob_to_use_pt_input_for_train=1"],
                "all 2 frames are prompted, so no memory .* 3 or more, or lower trainer.model.num_init_cond_frames_for",
            ),
            # Also the official fine-tuning of all parameters.
            (
                [*ALL_PROMPTED, "trainer.model.prob_to_use_pt_input_for_train=0"],
                "all 2 frames are prompted, by masks, .* num_frames of 3",
            ),
            (["+trainer.model.freeze=['*']"], "depends on no trainable parameter: see trainer.model.freeze"),
        ],
        ids=["an image", "all frames", "masks", "all is frozen"],
    )
    def test_they_are_refused(self, tmp_path, changes, message):
        trainer = build(tmp_path, *changes)
        before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
        with pytest.raises(ValueError, match=f"the loss of clips synthetic/.*{message}"):
            trainer.run()
        after = trainer.model.state_dict()
        assert trainer.steps == 0 and all(torch.equal(after[name], before[name]) for name in before)
        assert not (tmp_path / "checkpoints/checkpoint.pt").exists()

    def test_memory_alone_learns_from_one_frame_more(self, tmp_path):
        trainer = build(tmp_path, self.MEMORY_ALONE)
        trainer.run(lambda: trainer.steps == 1)
        assert trainer.steps == 1


class TestBase:
    def write(self, folder, **files):
        for name, text in files.items():
            (folder / f"{name}.yaml").write_text(text)

    def test_says_only_what_is_different(self, tmp_path):
        self.write(
            tmp_path,
            first="size: 8\npart: {a: 1, b: ['${size}'], c: '${size}'}\n",
            second=f"base_config: {tmp_path}/first.yaml\npart: {{b: [2, 3], d: 4}}\n",
            third=f"base_config: {tmp_path}/second.yaml\nsize: 16\n",
        )
        found = OmegaConf.to_container(load_config(tmp_path / "third.yaml", ["part.a=5"]))
        assert found == {"size": 16, "part": {"a": 5, "b": [2, 3], "c": 16, "d": 4}}

    def test_a_circle(self, tmp_path):
        self.write(tmp_path, a=f"base_config: {tmp_path}/b.yaml\n", b=f"base_config: {tmp_path}/a.yaml\n")
        with pytest.raises(ConfigError, match=r"circle: .*a.yaml -> .*b.yaml -> .*a.yaml"):
            load_config(tmp_path / "a.yaml")
