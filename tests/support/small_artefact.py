"""An artefact as small as they get, of programs with the inputs and the results of a model's."""

import json
import tempfile
from dataclasses import asdict
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

SIZE = 32  # pixels across


class Levels(nn.Module):
    """In the place of an encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.ModuleList(nn.Conv2d(3, 8, stride, stride) for stride in (4, 8, 16))

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        with torch.autocast("cpu", enabled=False):  # a part of the graph, as models have them
            coarse = torch.nn.functional.gelu(self.patches[2](pixels))
        return self.patches[0](pixels), self.patches[1](pixels), coarse


class Masks(nn.Module):
    """In the place of a decoder."""

    def forward(
        self, levels: list[Tensor], coords: Tensor, labels: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        score = (coords.mean(2) * labels).mean(1, keepdim=True)
        return score[:, :, None, None] + levels[0][:, :4], score.expand(-1, 4).contiguous(), score


@cache
def artefact() -> dict[str, bytes]:
    """Its files."""
    from sam2fast.exported import ArtifactFacts, save_program
    from sam2fast.exported.artifact import DECODER, ENCODER, FACTS, processor

    points = torch.export.Dim("points", min=1, max=4)
    coords, labels = torch.ones(1, 2, 2), torch.ones(1, 2, dtype=torch.int32)
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        levels = list(Levels()(torch.zeros(1, 3, SIZE, SIZE)))
        shapes = {"levels": [None] * 3, "coords": {1: points}, "labels": {1: points}, "mask": None}
        encoder = torch.export.export(Levels(), (torch.zeros(1, 3, SIZE, SIZE),), strict=False)
        decoder = torch.export.export(Masks(), (levels, coords, labels, None), dynamic_shapes=shapes, strict=False)
        files = {}
        for name, program in ((ENCODER, encoder), (DECODER, decoder)):
            save_program(program, Path(folder) / name)
            files[name] = (Path(folder) / name).read_bytes()
    sizes = {name: len(content) for name, content in files.items()}
    where = processor(torch.device("cpu"))
    about = ("exported", "mini", "0" * 64, SIZE, "float32", "cpu", where, 1, 4, torch.__version__, "0.1", sizes)
    return {**files, FACTS: json.dumps(asdict(ArtifactFacts(*about))).encode()}


def write_small_artefact(folder: Path) -> None:
    for name, content in artefact().items():
        (folder / name).write_bytes(content)
