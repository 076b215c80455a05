"""Models as exported programs and ahead-of-time compiled artefacts, and a predictor on top of them."""

from sam2fast.exported.artifact import ArtifactFacts, read_facts, write_artifact
from sam2fast.exported.checking import check_program
from sam2fast.exported.errors import ArtifactError
from sam2fast.exported.loading import LoadedModel, load_predictor
from sam2fast.exported.packages import compile_artifact, load_artifact
from sam2fast.exported.programs import (
    DecoderModule,
    EncoderModule,
    export_decoder,
    export_encoder,
    load_program,
    save_program,
)

__all__ = [
    "ArtifactError",
    "ArtifactFacts",
    "DecoderModule",
    "EncoderModule",
    "LoadedModel",
    "check_program",
    "compile_artifact",
    "export_decoder",
    "export_encoder",
    "load_artifact",
    "load_predictor",
    "load_program",
    "read_facts",
    "save_program",
    "write_artifact",
]
