"""Whole videos with plain strategies: the logits of the published code, and what must be equal."""

import pytest
import torch
from plain_distractors import PlainD4sm, PlainDam4sam
from plain_strategies import PlainConfident, PlainSam2Long, PlainSamurai
from plain_tracker import PlainTracker, run
from strategy_recordings import EVERY, FRAMES, HEIGHT, IMAGE_SIZE, RECIPES, WIDTH, Recording

from sam2fast.utils.testing import relative_error


@pytest.mark.parametrize(("name", "obj"), [("samurai_box", 0), ("samurai_click", 0), ("d4sm", 1)])
def test_logits_are_those_of_the_published_code(name, obj, official, frames):
    recipe, recording = RECIPES[name], Recording.load(name)
    strategy = PlainSamurai(IMAGE_SIZE, FRAMES) if recipe.tracker == "samurai" else PlainD4sm((HEIGHT, WIDTH))
    count = 4 * EVERY + 1
    found = run(recipe.weights(official), frames, strategy, count, **recipe.prompt_of(obj))
    for t in range(0, count, EVERY):
        assert relative_error(torch.from_numpy(recording.logits[t // EVERY, obj]), found.masks[t]) <= 1e-5, t


def test_masks_are_those_of_the_best_pathway_when_the_video_ends(official, frames):
    recipe, seen, paths = RECIPES["samurai_box"], [], 2
    recipe.weights(official)
    hook = official.sam_mask_decoder.register_forward_hook(lambda module, args, found: seen.append(found[0][0]))
    strategy = PlainSam2Long(FRAMES, paths, uncertainty=100)
    found = run(official, frames, strategy, 9, **recipe.prompt_of(0))
    hook.remove()
    assert [len(attended) for attended in found.attended] == [1, *[paths] * 7]
    parents = []
    for t, slot in strategy.finish().items():
        parent, chosen = found.decided[t - 1][slot]
        # Of the prompt, of the first frame, and then of each pathway.
        assert torch.equal(found.masks[t], seen[1 if t == 1 else 2 + paths * (t - 2) + parent][chosen])
        parents.append(parent)
    assert 0 < sum(parents) < len(parents)


def test_factors_scale_keys_alone(official, frames):
    tracker = PlainTracker(official, frames, 0, 0.0)
    tracker.prompt(**RECIPES["d4sm"].prompt_of(0))
    attended = PlainSam2Long(FRAMES).attend(1)
    usual = tracker._memory(attended, lambda frame: frame)
    factors = type(attended)(attended.memories, attended.pointers, [1.05], [0.95])
    tokens, places, pointers = tracker._memory(factors, lambda frame: frame)
    assert torch.equal(tokens, usual[0]) and pointers == usual[2] == 2
    keys, usual_keys = tokens + places, usual[0] + usual[1]
    torch.testing.assert_close(keys[:-pointers], 1.05 * usual_keys[:-pointers], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(keys[-pointers:], 0.95 * usual_keys[-pointers:], atol=1e-5, rtol=1e-4)


def test_distractors_are_encoded_again_by_dam4sam_alone(official, frames, monkeypatch):
    recipe, again = RECIPES["d4sm"], []
    encode = official._encode_new_memory
    monkeypatch.setattr(
        official, "_encode_new_memory", lambda **given: again.append(given["is_mask_from_pts"]) or encode(**given)
    )
    recipe.weights(official)
    added = {}
    for strategy in (PlainDam4sam((HEIGHT, WIDTH)), PlainD4sm((HEIGHT, WIDTH)), PlainConfident(FRAMES)):
        found = run(official, frames, strategy, 8, **recipe.prompt_of(1))
        added[type(strategy)] = [t for t, one in enumerate(found.decided, 1) if not isinstance(one, int) and one[1]]
        assert [t for t, is_again in enumerate(again[-7:], 1) if is_again] == (
            added[PlainDam4sam] if isinstance(strategy, PlainDam4sam) else []
        )
    assert added[PlainDam4sam] and added[PlainD4sm]
