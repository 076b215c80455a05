"""Names of devices; GPUs that emulate bfloat16: the demo uses float16 there, and training warns."""

import logging
from contextlib import nullcontext

import pytest
import torch

from sam2fast.demo.server.model_thread import ModelThread
from sam2fast.training.settings import AmpConf
from sam2fast.utils.devices import autocast_dtype_for, available_device

GPU = torch.device("cuda", 1)


def set_gpu(monkeypatch, capability: tuple[int, int], hip: str | None = None) -> None:
    """Gives the second GPU another capability."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", {GPU: capability}.__getitem__)
    monkeypatch.setattr(torch.version, "hip", hip)


@pytest.mark.parametrize("name", ["gpu", "0", "CUDA", ""])
def test_names_that_torch_does_not_know(name):
    """Without torch's list of twenty types."""
    with pytest.raises(RuntimeError, match=f"^'{name}' is not a device; expected cpu, cuda .* mps .* or auto$"):
        available_device(name)


@pytest.mark.parametrize(
    ("capability", "hip", "expected"),
    [((7, 5), None, torch.float16), ((8, 0), None, torch.bfloat16), ((7, 0), "6.4", torch.bfloat16)],
    ids=str,
)
def test_the_demo_uses_the_gpus_dtype(capability, hip, expected, monkeypatch):
    set_gpu(monkeypatch, capability, hip)
    assert autocast_dtype_for(GPU) == expected
    entered = []
    monkeypatch.setattr(torch, "autocast", lambda *arguments: nullcontext(entered.append(arguments)))
    thread = ModelThread(GPU)
    thread.call(int)
    thread.close()
    assert entered == [("cuda", expected)]


@pytest.mark.parametrize(
    ("amp", "capability", "warned"),
    [
        (AmpConf(enabled=True), (7, 5), True),
        (AmpConf(enabled=True), (8, 6), False),
        (AmpConf(enabled=True, amp_dtype="float16"), (7, 5), False),
        (AmpConf(), (7, 5), False),
    ],
    ids=["imitated", "native", "float16", "off"],
)
def test_training_warns(amp, capability, warned, monkeypatch, caplog):
    set_gpu(monkeypatch, capability)
    with caplog.at_level(logging.WARNING):
        amp.check_device(GPU)
        amp.check_device(torch.device("cpu"))
    assert caplog.text.count("amp_dtype=float16") == warned
