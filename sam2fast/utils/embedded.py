"""Lists nano and mini, the models with weights in the package."""

from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).parents[1]


class EmbeddedModel(NamedTuple):
    """Describes a model with weights in the package."""

    model_id: str  # name in ``from_pretrained``
    config: str
    weights: Path  # file of weights, or index of such files
    photograph_size: int | None = None  # side of the input for images; None for the side in the configuration

    @property
    def bytes(self) -> int:
        """Total size of the weight files, in bytes."""
        return sum(file.stat().st_size for file in self.weights.parent.glob("*.safetensors"))

    def is_called(self, name: str) -> bool:
        """Returns True if ``name``, without ``configs/`` and ``.yaml``, is a name of this model."""
        short = self.model_id.rpartition("/")[2]
        return name in (short, self.model_id, f"sam2fast_{short}", f"{short}/sam2fast_{short}")


NANO = EmbeddedModel("sam2fast/nano", "configs/nano/sam2fast_nano.yaml", PACKAGE / "nano" / "weights.safetensors")
MINI = EmbeddedModel("sam2fast/mini", "configs/mini/sam2fast_mini.yaml", PACKAGE / "mini" / "weights.index.json", 768)
EMBEDDED = {model.model_id: model for model in (NANO, MINI)}


def find_embedded(name: str) -> EmbeddedModel | None:
    """Returns the embedded model with this name, or None; see :meth:`EmbeddedModel.is_called`."""
    return next((model for model in EMBEDDED.values() if model.is_called(name)), None)
