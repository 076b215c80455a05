"""Models as exported programs and ahead-of-time compiled artefacts, and a predictor on top of them.

Artefacts are programs, and loading one can run code: load only artefacts that you exported yourself.
"""

from typing import TYPE_CHECKING, Any

from sam2fast.deploy.exported.artifact import ArtifactFacts, read_facts, write_artifact
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
from sam2fast.deprecated import old_name

__all__ = [
    "ArtifactError",
    "ArtifactFacts",
    "DecoderModule",
    "EncoderModule",
    "LoadedModel",
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

if not TYPE_CHECKING:  # for type checkers, other names stay errors

    def __getattr__(name: str) -> Any:
        return old_name(__name__, name)
