import copy
import pickle

import pytest
import torch
from parity import build_pair, random_map

from sam2fast.modeling.layers import TensorCache, chunked

TINY = ["++model.image_size=256"]


@pytest.fixture(scope="module")
def model():
    return build_pair("sam2.1_t", TINY)[1]


class TestDerived:
    def count(self, cache, source):
        calls = []
        cache("key", (source,), lambda: calls.append(1) or source * 2)
        return len(calls)

    def test_is_computed_once(self):
        cache, source = TensorCache(), torch.ones(3)
        with torch.no_grad():
            assert [self.count(cache, source) for _ in range(3)] == [1, 0, 0]

    def test_every_way_of_changing_a_parameter_is_seen(self):
        cache, source = TensorCache(), torch.nn.Parameter(torch.ones(3))
        with torch.no_grad():
            self.count(cache, source)
            for change in (
                lambda: source.add_(1),
                lambda: source.data.mul_(3),
                lambda: setattr(source, "data", torch.zeros(3)),
                lambda: source.detach().numpy().fill(7),
            ):
                change()
                assert self.count(cache, source) == 1

    def test_is_always_computed_for_autograd(self):
        cache, source = TensorCache(), torch.nn.Parameter(torch.ones(3))
        assert [self.count(cache, source) for _ in range(2)] == [1, 1]
        cache("key", (source,), lambda: source * 2).sum().backward()
        assert source.grad is not None

    def test_copies_start_empty(self):
        cache, source = TensorCache(), torch.ones(3)
        with torch.no_grad():
            self.count(cache, source)
            for other in (copy.deepcopy(cache), pickle.loads(pickle.dumps(cache))):
                assert self.count(other, source) == 1


def test_new_positions_take_effect_at_once(model):
    x = random_map(1, 3, 256, 256)
    with torch.no_grad():
        before = model.encode_image(x)[-1]
        model.image_encoder.trunk.pos_embed.data.mul_(1.5)
        after = model.encode_image(x)[-1]
        model.image_encoder.trunk.pos_embed.data.div_(1.5)
    assert not torch.allclose(before, after)


@pytest.mark.parametrize("shape", [(1, 64, 64, 96), (2, 61, 32, 96), (1, 250, 250, 96), (3, 16, 2000, 64)], ids=str)
@pytest.mark.parametrize("rows", [1, 8, 14])
def test_chunks_equal_one_call(shape, rows):
    """Pooled inside groups of rows, as a block that starts a stage does."""

    def pool(x):
        return x[:, : x.shape[1] // 2 * 2].unflatten(1, (-1, 2)).amax(2) + 1 if rows % 2 == 0 else x + 1

    x = random_map(*shape)
    with torch.no_grad():
        assert torch.equal(chunked(pool, x, rows), pool(x))


def test_cache_off_the_cpu():
    """Compared by address and version, since comparing values would wait for the device."""
    source, other, calls = torch.empty(3, device="meta"), torch.ones(3), []
    cache = TensorCache()

    def ask(tensor, key=0):
        with torch.no_grad():
            cache(key, (tensor,), lambda: calls.append(1) or torch.empty(2))
        return len(calls)

    assert [ask(source), ask(source)] == [1, 1]
    source.add_(1)
    assert [ask(source), ask(source), ask(source, key=1)] == [2, 2, 3]
    assert [ask(other), ask(other), ask(source, key=0)] == [4, 4, 5]
    with torch.inference_mode():
        unversioned = torch.empty(3, device="meta")
        assert [ask(unversioned), ask(unversioned)] == [6, 7]
