"""The kernel of connected components against its reference: equal labels and areas of random masks of any density."""

from typing import NamedTuple

import pytest
import torch
from parity_rows import Row, finish, integer, planned, seeded, twice

from sam2fast.kernels.connected_components import connected_components, connected_components_reference


class Plan(NamedTuple):
    """What is tried: at least so many random masks, of sizes up to these."""

    masks: int = 10_000
    side: int = 300
    batch: int = 64


QUICK = Plan(masks=8, side=40, batch=3)
PLAN = planned(Plan(), Plan(masks=1000), QUICK, QUICK)


def row_of(plan: Plan, device: torch.device, seed: int | None = None) -> Row:
    generator, wrong, done = seeded(seed), 0, 0
    while done < plan.masks:
        batch, height, width = (integer(1, most, generator) for most in (plan.batch, plan.side, plan.side))
        density = float(torch.rand((), generator=generator))
        mask = torch.rand(batch, 1, height, width, generator=generator) < density
        expected = connected_components_reference(mask)
        runs = twice("connected_components", lambda mask=mask: connected_components(mask.to(device)))
        equal = [torch.equal(e, a.cpu()) for run in runs for e, a in zip(expected, run, strict=True)]
        wrong += 0 if all(equal) else batch
        done += batch
    return {"op": "connected_components", "random masks": done, "wrong": wrong, "seed": generator.initial_seed()}


@pytest.mark.gpu
def test_parity(triton_device, record_property):
    finish(row_of(PLAN, triton_device), record_property)


TINY = Plan(masks=4, side=12, batch=2)


def test_a_wrong_kernel_is_seen(triton_device, monkeypatch):
    right = connected_components
    assert row_of(TINY, triton_device, 0)["wrong"] == 0

    def wrong(mask):
        labels, areas = right(mask)
        return labels, areas + 1

    monkeypatch.setitem(row_of.__globals__, "connected_components", wrong)
    row = row_of(TINY, triton_device, 0)
    assert row["wrong"] == row["random masks"] >= 4
