"""Groups, learning rates and weight decay against the official ones, by parameter name."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import oracle  # noqa: F401
import parity
import pytest
import sam2
import sam2.build_sam
import torch
import training.optimizer as official
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

import sam2fast.build_sam
from sam2fast.modeling.layers import LayerNorm2d
from sam2fast.training.optimizer import (
    GradientClipper,
    Optimizer,
    ValueScaler,
    construct_optimizer,
    layer_decay_param_modifier,
)
from sam2fast.training.schedules import ConstantParamScheduler

OURS = {
    "fvcore.common.param_scheduler": "sam2fast.training.schedules",
    "training.optimizer": "sam2fast.training.optimizer",
}


def official_optim():
    """The official training configuration's ``optim``."""
    path = Path(sam2.__file__).parent / "configs/sam2.1_training/sam2.1_hiera_b+_MOSE_finetune.yaml"
    config = OmegaConf.load(path)
    OmegaConf.register_new_resolver("divide", lambda a, b: a / b, replace=True)
    optim = config.trainer.optim
    OmegaConf.resolve(optim)
    return optim


def construct_ours(model, optim):
    text = OmegaConf.to_yaml(OmegaConf.create({key: optim[key] for key in ("options", "param_group_modifiers")}))
    for theirs, ours in OURS.items():
        text = text.replace(theirs, ours)
    built = instantiate(OmegaConf.to_container(OmegaConf.create(text)), _convert_="all")
    return construct_optimizer(model, torch.optim.AdamW, built["options"], built["param_group_modifiers"])


def construct_official(model, optim):
    return official.construct_optimizer(model, optim.optimizer, optim.options, optim.param_group_modifiers)


def groups_by_name(model, optimizer):
    """Of each group: names, learning rate, weight decay."""
    names = {value: name for name, value in model.named_parameters()}
    return [
        ({names[p] for p in group["params"]}, group["lr"], group["weight_decay"])
        for group in optimizer.optimizer.param_groups
    ]


def test_official_training_configuration():
    name = parity.config_name("sam2.1_t")
    theirs = sam2.build_sam.build_sam2(name, None, device="cpu", mode="train")
    ours = sam2fast.build_sam.build_sam2(name, None, device="cpu", mode="train")
    optim = official_optim()
    their_optimizer, optimizer = construct_official(theirs, optim), construct_ours(ours, optim)
    assert groups_by_name(ours, optimizer) == groups_by_name(theirs, their_optimizer)
    for step, where in enumerate((0.37, 1 - 1e-9, 0.0)):
        their_optimizer.step_schedulers(where, step)
        optimizer.step_schedulers(where, step)
        assert groups_by_name(ours, optimizer) == groups_by_name(theirs, their_optimizer)
    optimizer.step_schedulers(1.0)
    # The official constants stop just before the end.
    assert [g["lr"] for g in optimizer.param_groups] == [s["lr"](1.0) for s in their_optimizer.schedulers]
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.1}
    assert len({group["lr"] for group in optimizer.param_groups}) > 10


class Trunk(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch_embed = nn.Conv2d(3, 4, 1)
        self.pos_embed = nn.Parameter(torch.zeros(4))
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)) for _ in range(3))
        self.out = nn.Linear(4, 4)

    def get_num_layers(self):
        return 3

    def get_layer_id(self, name):
        if "embed" in name:
            return 0
        return int(name.split("blocks.")[1].split(".")[0]) + 1 if "blocks" in name else 4


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = Trunk()
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 2)
        self.embedder = nn.Linear(4, 2)
        self.head.weight.requires_grad_(False)


def entry(kind, *values, **selection):
    """An entry of an option, with a scheduler of fvcore."""
    names = ("value",) if kind == "Constant" else ("start_value", "end_value")
    target = f"fvcore.common.param_scheduler.{kind}ParamScheduler"
    return {"scheduler": {"_target_": target, **dict(zip(names, values, strict=True))}, **selection}


NORMS = ["torch.nn.LayerNorm", "torch.nn.BatchNorm2d"]
CASES: dict[str, dict[str, Any]] = {
    "no entry for the rest": {
        "options": {
            "lr": [entry("Linear", 0.0, 2.0, param_names=["trunk.*", "head.bias"])],
            "weight_decay": [entry("Constant", 0.5, module_cls_names=["torch.nn.Linear"])],
        }
    },
    "names and classes": {
        "options": {
            "lr": [
                entry("Constant", 1.0),
                entry("Cosine", 2.0, 1.0, param_names=["trunk.blocks.[01].*"]),
                entry("Cosine", 3.0, 1.0, param_names=["trunk.blocks.2.?.weight"]),
            ],
            "weight_decay": [
                entry("Constant", 0.0, param_names=["*bias"], module_cls_names=NORMS),
                entry("Constant", 0.1),
            ],
        }
    },
    "layers, least factor and overrides": {
        "options": {
            "lr": [entry("Cosine", 1.0, 0.1), entry("Cosine", 2.0, 0.1, param_names=["*bias"])],
            "weight_decay": [entry("Linear", 0.1, 0.2)],
        },
        "param_group_modifiers": [
            {
                "_target_": "training.optimizer.layer_decay_param_modifier",
                "_partial_": True,
                "apply_to": "trunk",
                "layer_decay_value": 0.5,
                "layer_decay_min": 0.2,
                "overrides": [
                    {"pattern": "*pos_embed*", "value": 1.5},
                    {"pattern": "*.blocks.0.*", "value": 0.01},
                    {"pattern": "*blocks*bias", "value": 7},
                    {"pattern": "head*", "value": 9},
                ],
            }
        ],
    },
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_groups_are_the_official_ones(case):
    model = Model()
    optim = OmegaConf.create({"optimizer": {"_target_": "torch.optim.AdamW"}, "param_group_modifiers": [], **case})
    theirs, ours = construct_official(model, optim), construct_ours(model, optim)
    for where in (0.0, 0.6):
        theirs.step_schedulers(where, 0)
        ours.step_schedulers(where, 0)
        assert groups_by_name(model, ours) == groups_by_name(model, theirs)
    # The same order too: a stored state belongs to the same parameters.
    for mine, other in zip(ours.param_groups, theirs.optimizer.param_groups, strict=True):
        assert list(map(id, mine["params"])) == list(map(id, other["params"]))


def test_names_of_classes():
    class Norm(nn.LayerNorm):
        pass

    norms = nn.Sequential(Norm(2), LayerNorm2d(2), nn.Linear(2, 2), nn.Linear(2, 2))
    norms[3].weight = norms[2].weight
    for name, expected in (
        ("torch.nn.LayerNorm", {"0.weight", "0.bias"}),
        ("sam2.modeling.sam2_utils.LayerNorm2d", {"1.weight", "1.bias"}),
        ("torch.nn.Linear", {"2.weight", "2.bias", "3.bias"}),  # a shared parameter is in one group
    ):
        entry = {"scheduler": ConstantParamScheduler(0.25), "module_cls_names": [name]}
        optimizer = construct_optimizer(norms, torch.optim.AdamW, {"weight_decay": [entry]})
        assert [names for names, _, decay in groups_by_name(norms, optimizer) if decay == 0.25] == [expected]


def test_companions_are_trained_too():
    model, head = Model(), nn.Linear(3, 3)
    options = {
        "lr": [
            {"scheduler": ConstantParamScheduler(1.0)},
            {"scheduler": ConstantParamScheduler(2.0), "param_names": ["auxiliary.*"]},
            {"scheduler": ConstantParamScheduler(3.0), "param_names": ["head.*"]},
        ]
    }
    optimizer = construct_optimizer(model, torch.optim.AdamW, options, companions={"auxiliary": head})
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert [rates[id(p)] for p in (head.weight, head.bias, model.head.bias, model.norm.bias)] == [2, 2, 3, 1]
    assert len(rates) == len(list(model.parameters())) + 2


ONE = ConstantParamScheduler(1.0)


def forgetful(scheduler_cfgs, model):
    return [[replace(entry, parameter_names=entry.parameter_names - {"norm.bias"})] for (entry,) in scheduler_cfgs]


def lr(**selection):
    return {"scheduler": ONE, **selection}


DECAY = partial(layer_decay_param_modifier, layer_decay_value=0.5, apply_to="trunks")


@pytest.mark.parametrize(
    ("options", "more", "words"),
    [
        ({"lr": [lr()]}, {"param_group_modifiers": [DECAY]}, "'trunks'"),
        ({"lr": [lr()]}, {"param_group_modifiers": [forgetful]}, "norm.bias"),
        ({"lr": [lr()]}, {"companions": {"head": nn.Linear(3, 3)}}, "head.weight"),
        ({"lr": [lr(param_names=["head.*", "trunks.*"])]}, {}, r"lr: 'trunks.\*' matches"),
        ({"lr": [lr(module_cls_names=["torch.nn.Bilinear"])]}, {}, "'torch.nn.Bilinear' matches"),
        ({"lr": [lr(), lr()]}, {}, "lr: 2 entries"),
        (
            {"lr": [lr(param_names=["*bias"]), lr(param_names=["head.*"])]},
            {},
            r"both \*bias and head.\* take head.bias",
        ),
        ({"momentum": [lr()]}, {}, "AdamW has no option momentum; its options are lr"),
    ],
)
def test_refusals(options, more, words):
    with pytest.raises(ValueError, match=words):
        construct_optimizer(Model(), torch.optim.AdamW, options, **more)


def test_schedulers_that_take_the_step():
    calls = []

    class Stepwise:
        def __call__(self, where, step):
            calls.append((where, step))
            return 0.1 * (step + 1)

    model = nn.Linear(1, 1)
    optimizer = Optimizer(torch.optim.SGD(model.parameters()), [{"lr": ValueScaler(ValueScaler(Stepwise(), 2), 3)}])
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.6)
    optimizer.step_schedulers(0.5, 4)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(3.0)
    assert calls == [(0.0, 0), (0.5, 4)]


@pytest.mark.parametrize("norm_type", [2, 1, float("inf")])
def test_clipping(norm_type):
    g = torch.Generator().manual_seed(0)
    models = [nn.Linear(3, 3) for _ in range(3)]
    grads = [torch.randn(p.shape, generator=g) for p in models[0].parameters()]
    for model in models:
        for p, grad in zip(model.parameters(), grads, strict=True):
            p.grad = grad.clone()
    clipped, reference, left = models
    official.GradientClipper(0.1, norm_type)(reference)
    norm = torch.linalg.vector_norm(torch.cat([grad.flatten() for grad in grads]), norm_type)
    torch.testing.assert_close(GradientClipper(0.1, norm_type)(clipped), norm)
    torch.testing.assert_close(GradientClipper(None, norm_type)(left.parameters()), norm)
    for a, b, c, grad in zip(*(m.parameters() for m in models), grads, strict=True):
        assert torch.equal(a.grad, b.grad)
        assert torch.equal(c.grad, grad)
