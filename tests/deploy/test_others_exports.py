"""Compares exports that users write with ``torch.jit``, ``torch.export`` and ``torch.onnx`` with official exports."""

import copy

import onnx
import onnxruntime
import pytest
import torch
from compiled_forms import tensors_in
from parity import NARROW, build_pair, random_map
from torch import nn

from sam2fast.utils.testing import relative_error

SIDE = 128
OTHER_EXPORTERS = {
    "jit.trace": lambda module, inputs: torch.jit.trace(module, inputs),
    "export": lambda module, inputs: torch.export.export(module, inputs, strict=False).module(),
    "strict export": lambda module, inputs: torch.export.export(module, inputs, strict=True).module(),
}


class Encoder(nn.Module):
    """Computes the levels of an image and the position encodings."""

    def __init__(self, model):
        super().__init__()
        self.image_encoder, self.decoder = model.image_encoder, model.sam_mask_decoder

    def forward(self, image):
        levels = self.image_encoder(image)["backbone_fpn"]
        positions = self.image_encoder(image)["vision_pos_enc"]
        return self.decoder.conv_s0(levels[0]), self.decoder.conv_s1(levels[1]), levels[2], *positions


class Decoder(nn.Module):
    """Predicts masks for points."""

    def __init__(self, model):
        super().__init__()
        self.prompts, self.decoder = model.sam_prompt_encoder, model.sam_mask_decoder

    def forward(self, high0, high1, embedding, coords, labels):
        sparse, dense = self.prompts(points=(coords, labels), boxes=None, masks=None)
        masks, ious, _, scores = self.decoder(
            image_embeddings=embedding,
            image_pe=self.prompts.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
            repeat_image=False,
            high_res_features=[high0, high1],
        )
        return masks, ious, scores


@pytest.fixture(scope="module")
def pair():
    """The official model and this package's model."""
    return build_pair("sam2.1_t", [f"++model.image_size={SIDE}", *NARROW])


def module_and_inputs(model, part, seed=0):
    if part == "encoder":
        return Encoder(model), (random_map(1, 3, SIDE, SIDE, seed=seed),)
    maps = (
        random_map(1, 32, 32, 32, seed=seed),
        random_map(1, 64, 16, 16, seed=seed),
        random_map(1, 256, 8, 8, seed=seed),
    )
    return Decoder(model), (*maps, random_map(1, 2, 2, seed=seed).abs() * 40, torch.tensor([[1, 0]], dtype=torch.int32))


@pytest.mark.parametrize("part", ["encoder", "decoder"])
@pytest.mark.parametrize("exporter", OTHER_EXPORTERS)
@torch.no_grad()
def test_programs(pair, exporter, part):
    """Tests that programs compute the official results, and that the exported model still runs afterwards."""
    official, ours = copy.deepcopy(pair)
    module, inputs = module_and_inputs(ours, part)
    program = OTHER_EXPORTERS[exporter](module, inputs)
    expected_of, _ = module_and_inputs(official, part)
    for seed in (0, 1):
        _, inputs = module_and_inputs(ours, part, seed)
        expected = tensors_in(expected_of(*inputs))
        for computed in (program, module):
            for a, b in zip(expected, tensors_in(computed(*inputs)), strict=True):
                assert relative_error(a, b) <= 1e-4


@pytest.mark.parametrize("part", ["encoder", "decoder"])
@pytest.mark.parametrize("is_dynamo", [False, True], ids=["traced", "dynamo"])
@torch.no_grad()
def test_onnx_graphs(pair, is_dynamo, part, tmp_path):
    """Tests that graphs compute the official results, and store at most 1 MB more constants, without tables."""
    expected = constants = None
    for name, model in zip(("official", "ours"), pair, strict=True):
        module, inputs = module_and_inputs(copy.deepcopy(model), part)
        tensors_in(module(*inputs))  # programs such as samexporter first compute the results
        file = tmp_path / f"{name}.onnx"
        torch.onnx.export(module, inputs, file, opset_version=18, dynamo=is_dynamo, external_data=False)
        graph = onnx.load(file).graph
        stored = bytes_of_constants(graph)
        if name == "official":
            expected, constants = tensors_in(module(*inputs)), stored
            continue
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        results = session.run(None, {x.name: y.numpy() for x, y in zip(session.get_inputs(), inputs, strict=True)})
        for a, b in zip(expected, results, strict=True):
            assert relative_error(a, b) <= 1e-4
        assert stored <= constants + 1e6


def bytes_of_constants(graph):
    nodes = [node for node in graph.node if node.op_type == "Constant"]
    weights = sum(len(x.raw_data) for x in graph.initializer)
    return weights + sum(len(x.t.raw_data) for node in nodes for x in node.attribute)
