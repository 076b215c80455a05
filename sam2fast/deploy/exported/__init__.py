"""Exported programs and ahead-of-time compiled artefacts of models, and a predictor that runs them.

Artefacts are programs, and loading one can run code. Load only artefacts that you exported yourself.
"""

from sam2fast.deploy.exported.artifact import ArtifactMetadata, read_metadata, write_artifact
from sam2fast.deploy.exported.loading import LoadedModel, load_predictor
from sam2fast.deploy.exported.programs import (
    ArtifactError,
    DecoderModule,
    EncoderModule,
    compile_artifact,
    export_decoder,
    export_encoder,
    load_artifact,
    load_program,
    save_program,
)

__all__ = [
    "ArtifactError",
    "ArtifactMetadata",
    "DecoderModule",
    "EncoderModule",
    "LoadedModel",
    "compile_artifact",
    "export_decoder",
    "export_encoder",
    "load_artifact",
    "load_predictor",
    "load_program",
    "read_metadata",
    "save_program",
    "write_artifact",
]
