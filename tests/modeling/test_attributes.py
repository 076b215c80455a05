"""All modules have the official attributes, and setting one has the official effect."""

import copy
from functools import partial

import pytest
import torch
from omegaconf import ListConfig
from parity import NARROW
from sam2.modeling.position_encoding import compute_axial_cis
from video import SMALL, build_video_pair, clip, compare, jpeg_folder, run, run_official, worst

SIMPLE = (int, float, bool, str, type(None))


def is_simple(value):
    return isinstance(value, SIMPLE) or isinstance(value, tuple | list) and all(map(is_simple, value))


def simple_attributes(module):
    values = {name: list(x) if isinstance(x, ListConfig) else x for name, x in vars(module).items()}
    return {name: value for name, value in values.items() if is_simple(value)}


@pytest.mark.parametrize("size", ["sam2.1_t", "sam2.1_b+"])
def test_simple_attributes_of_every_module(size):
    official, ours = build_video_pair(size)
    expected, actual = dict(official.named_modules()), dict(ours.named_modules())
    assert [*actual] == [*expected]
    count = 0
    for name, module in expected.items():
        other = actual[name]
        assert type(other).__name__ == type(module).__name__, name
        for attribute, value in simple_attributes(module).items():
            found = getattr(other, attribute)
            assert (type(found), found) == (type(value), value), f"{name}.{attribute}"
            count += 1
        assert vars(module).keys() - dir(other) == set(), name
    assert count > 2000


def test_rotations_are_the_originals():
    official, ours = (p.memory_attention.layers[0].cross_attn_image for p in build_video_pair("sam2.1_t", NARROW))
    assert ours.freqs_cis.dtype == official.freqs_cis.dtype == torch.complex64
    torch.testing.assert_close(ours.freqs_cis, official.freqs_cis)
    torch.testing.assert_close(ours.compute_cis(end_x=8, end_y=4), official.compute_cis(end_x=8, end_y=4))


def other_rotations(predictor):
    attention = predictor.memory_attention.layers[0].self_attn
    attention.freqs_cis = compute_axial_cis(attention.internal_dim // attention.num_heads, 8, 8, theta=3.0)


def other_rotations_of_all_sizes(predictor):
    for layer in predictor.memory_attention.layers:
        layer.self_attn.compute_cis = partial(compute_axial_cis, dim=256, theta=3.0)


def other_positions(predictor):
    predictor.image_encoder.neck.position_encoding.cache[8, 8] = torch.linspace(-1, 1, 256 * 64).reshape(256, 8, 8)


def one_activation_less(predictor):
    predictor.obj_ptr_proj.num_layers = 2


def smaller_windows(predictor):
    predictor.image_encoder.trunk.blocks[0].window_size = 4


CHANGES = [other_rotations, other_rotations_of_all_sizes, other_positions, one_activation_less, smaller_windows]


@pytest.fixture(scope="module")
def pair():
    return build_video_pair("sam2.1_t", NARROW, image_size=SMALL)


@pytest.mark.parametrize("change", CHANGES)
def test_setting_an_attribute_has_the_originals_effect(pair, change, tmp_path):
    """Also between two passes, when the engine has its plan."""
    official, ours = copy.deepcopy(pair)
    video = jpeg_folder(tmp_path, clip(4, SMALL, SMALL))

    def scenario(session):
        session.points(0, 1, (60, 50, 1))
        session.propagate()

    before = run(ours, video, scenario)
    if change is other_rotations_of_all_sizes:  # both packages keep the rotations of earlier passes
        ours = copy.deepcopy(pair[1])
    for predictor in (official, ours):
        change(predictor)
    expected = run_official(official, video, scenario, check_itself=False)
    actual = run(ours, video, scenario)
    compare(expected, actual)
    assert worst(before, actual) > 1e-3
