"""Compiled parts: what is computed from plans is compiled, and changes take effect."""

import copy

import torch
from planned import ALL, difference, parts_of, results, without

from sam2fast.deploy.compilation import compile_model, uncompile


def graphs_of(model, *parts):
    """Compiles parts of a model; returns the list that their graphs are appended to."""
    graphs = []
    compile_model(model, parts, backend=lambda graph, inputs: graphs.append(graph) or graph.forward)
    return graphs


def test_a_compiled_part_is_computed_from_its_plan(model):
    expected = results(model)
    graphs = graphs_of(model, "image_encoder", "mask_decoder")
    assert difference(expected, results(model)) < 1e-5 and parts_of(model) == ALL and len(graphs) == 2
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.01)
    assert difference(results(uncompiled_copy(other)), results(other)) < 1e-5
    assert difference(expected, results(other)) > 1e-3
    count = len(graphs)
    with torch.no_grad():
        model.image_encoder.trunk.blocks[0].norm1.weight.mul_(1.5)
    assert difference(results(uncompiled_copy(model)), results(model)) < 1e-5 and len(graphs) == count
    uncompile(model)
    results(model)
    assert len(graphs) == count and parts_of(model) == ALL


def uncompiled_copy(model):
    return uncompile(copy.deepcopy(model))


def test_a_changed_part_that_is_compiled_takes_effect(model):
    """Its module is compiled then."""
    graphs = graphs_of(model, "mask_decoder")
    before = results(model)
    model.sam_mask_decoder.transformer.layers[1].norm2.register_forward_hook(lambda module, args, result: 1.5 * result)
    after = results(model)
    assert parts_of(model) == without("masks") and difference(before, after) > 1e-3 and len(graphs) == 2
    assert difference(results(uncompiled_copy(model)), after) < 1e-5
