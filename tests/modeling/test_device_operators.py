"""Each torch operator that inference calls exists on the device that it is called on, Apple GPUs (MPS) among them."""

import json

import pytest
import torch
from device_operators import COMPOSITE, CONFIGS, LIST, called_on_cuda, called_on_mps, dispatch_of

# Where is_cuda was asked before, or by torch itself.
ON_CUDA_ALONE = {"_addmm_activation", "_scaled_dot_product_efficient_attention"}
NANO, *OTHERS = CONFIGS
MODELS = [NANO, *(pytest.param(config, marks=pytest.mark.slow) for config in OTHERS)]


@pytest.fixture(scope="module")
def listed() -> dict[str, list[str]]:
    return json.loads(LIST.read_text())["operators"]


@pytest.fixture(autouse=True)
def as_users_have_it():
    """Without torch's deterministic algorithms, which are made of other operators."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)
    yield
    torch.use_deterministic_algorithms(before, warn_only=True)


def lacks(devices: list[str], device: str) -> bool:
    return device not in devices and devices != [COMPOSITE]


def test_the_list_is_torchs(listed):
    version = json.loads(LIST.read_text())["torch"]
    if torch.__version__.partition("+")[0] != version:
        pytest.skip(f"the list is that of torch {version}")
    of = dispatch_of()
    assert listed == {name: of(name) for name in listed}
    assert {name for name, devices in listed.items() if lacks(devices, "MPS")} == ON_CUDA_ALONE


@pytest.mark.parametrize("config", MODELS)
def test_operators_on_mps(config, listed):
    called = called_on_mps(config)
    assert called <= set(listed)
    assert not [name for name in called if lacks(listed[name], "MPS")]


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS)
def test_operators_on_cuda(config, listed):
    called = called_on_cuda(config)
    assert ON_CUDA_ALONE <= called <= set(listed)
    assert not [name for name in called if lacks(listed[name], "CUDA")]
