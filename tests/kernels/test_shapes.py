"""Checks of an op's arguments by a sentence."""

import pytest
import torch

from sam2fast.kernels._op import Shapes

NAMES = ["x", "y", "weight", "bias", "count"]


def empty(*shape):
    return torch.empty(shape, device="meta")


def check(sentence, *given, fits=None):
    Shapes(sentence, NAMES, fits).check(given)


@pytest.mark.parametrize(
    ("sentence", "right", "wrong"),
    [
        ("x (B, K), y (K, B)", [empty(2, 3), empty(3, 2)], [empty(2, 3), empty(2, 3)]),
        ("x (B, 1), y (B)", [empty(2, 1), empty(2)], [empty(2, 2), empty(2)]),
        ("x (..., K), y (..., N)", [empty(2, 4, 3), empty(2, 4, 5)], [empty(2, 4, 3), empty(4, 2, 3)]),
        ("x (..., K), y (K)", [empty(3), empty(3)], [empty(), empty(3)]),
        ("x (..., H, W)", [empty(2, 3)], [empty(3)]),
        ("x and y (K, N)", [empty(2, 3), empty(2, 3)], [empty(2, 3), empty(2, 3, 1)]),
        ("x and y (B or 1, K)", [empty(1, 3), empty(4, 3)], [empty(2, 3), empty(4, 3)]),
        ("x (H), y (4 * H)", [empty(2), empty(9)], [empty(2), empty(9, 1)]),  # a product is another symbol
        ("x (H), y (H)", [empty(2), None], [empty(2), empty(3)]),
    ],
)
def test_shapes(sentence, right, wrong):
    for _ in range(2):  # the second time from the cache
        check(sentence, *right, *[None] * (5 - len(right)))
        with pytest.raises(ValueError, match="^expected x"):
            check(sentence, *wrong, *[None] * (5 - len(wrong)))


def test_other_words_and_conditions():
    sentence = "x (B, K) of floats, a weight or none (2, K), and count below B"
    given = [empty(4, 3), None, empty(2, 3), None, 3]
    check(sentence, *given, fits=lambda x, y, weight, bias, count: count < len(x))
    with pytest.raises(ValueError) as error:
        check(sentence, *given[:4], 7, fits=lambda x, y, weight, bias, count: count < len(x))
    assert str(error.value) == f"expected {sentence}, got x (4, 3), y None, weight (2, 3), bias None, count 7"


@torch.no_grad()
def test_in_graphs():
    from torch.fx.experimental.proxy_tensor import make_fx  # imports SymPy

    shapes = Shapes("x (B, K), y (K)", NAMES, None)

    def function(x, y):
        shapes.check((x, y, None, None, None))
        return x + y

    torch._dynamo.reset()
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True, dynamic=True)
    for B in (3, 4, 5):
        assert torch.equal(compiled(torch.ones(B, 2), torch.ones(2)), torch.full((B, 2), 2.0))
    traced = make_fx(function, tracing_mode="symbolic")
    assert traced(torch.ones(3, 2), torch.ones(2))(torch.ones(5, 2), torch.ones(2)).shape == (5, 2)
