import copy
import pickle

import torch

from sam2fast.engine.derived import Constants, TensorCache


class TestCache:
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
                lambda: setattr(source, "data", source.data.bfloat16()),
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


class TestConstants:
    def test_are_computed_once_and_again_in_place(self):
        """One tensor for all runs of a function that is recorded, whose address does not change."""
        constants, cache, other = Constants(), TensorCache(), TensorCache()
        weights, calls = [torch.nn.Parameter(torch.full((3,), x)) for x in (1.0, 10.0)], []

        def ask(cache, weight, key=0):
            return cache(key, (weight,), lambda: calls.append(1) or (weight + key, weight * 2))

        with torch.no_grad():
            with constants.in_use():
                first = ask(cache, weights[0])
                assert ask(cache, weights[0])[0] is first[0] and len(calls) == 1
                second, third = ask(cache, weights[0], key=5), ask(other, weights[1])
            assert len(calls) == 3 and not constants.are_outdated
            constants.refresh()
            assert len(calls) == 3
            for change in (lambda: weights[0].add_(1), lambda: weights[1].copy_(torch.zeros(3))):
                change()
                assert constants.are_outdated
                constants.refresh()
                assert not constants.are_outdated
                for (total, double), weight, key in ((first, 0, 0), (second, 0, 5), (third, 1, 0)):
                    assert torch.equal(total, weights[weight] + key) and torch.equal(double, weights[weight] * 2)
            weights[0].add_(1)
            with constants.in_use():  # a later recording finds all of one time
                ask(other, weights[1], key=1)
            assert torch.equal(first[1], weights[0] * 2)
            constants.clear()
            with constants.in_use():
                assert ask(cache, weights[0])[0] is not first[0]

    @torch.no_grad()
    def test_trees(self):
        """Of tuples and lists; a parameter itself stays what it is."""
        constants, cache, weight = Constants(), TensorCache(), torch.nn.Parameter(torch.ones(3))
        with constants.in_use():
            (kept, [double], name) = cache(0, (weight,), lambda: (weight, [weight * 2], "weight"))
        for _ in range(2):
            weight.add_(1)
            constants.refresh()
            assert kept is weight and torch.equal(double, weight * 2) and name == "weight"
            assert not constants.are_outdated  # the parameter was not written again

    @torch.no_grad()
    def test_of_other_constants(self):
        """They read what is kept. Off the CPU a cache of its own would not see values written through ``.data``."""
        constants, inner, outer, weight = Constants(), TensorCache(), TensorCache(), torch.ones(3)
        found = []

        def compute():
            found.append(inner(0, (weight,), lambda: weight * 2))
            return found[-1] + 1

        with constants.in_use():
            value = outer(0, (weight,), compute)
        weight.data.add_(4)
        constants.expire()
        constants.refresh()
        assert found[1] is found[0] and torch.equal(value, weight * 2 + 1)

    def test_gradients_and_tensors_without_versions_are_not_kept(self):
        constants, cache, weight = Constants(), TensorCache(), torch.nn.Parameter(torch.ones(3))
        with constants.in_use():
            assert cache(0, (weight,), lambda: weight * 2).requires_grad
        with torch.inference_mode(), constants.in_use():
            weight = torch.ones(3)
            assert cache(0, (weight,), lambda: weight * 2) is not cache(0, (weight,), lambda: weight * 2)
