"""The models whose weights are part of the package: nano and mini."""

from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).parents[1]


class EmbeddedModel(NamedTuple):
    """A model of the package: its name in ``from_pretrained``, its configuration, its weights or their index.

    ``photograph_size`` is the side of the input for images if it is another one than the configuration's for videos.
    """

    model_id: str
    config: str
    weights: Path
    photograph_size: int | None = None

    @property
    def bytes(self) -> int:
        """The size of the files with its weights."""
        return sum(file.stat().st_size for file in self.weights.parent.glob("*.safetensors"))

    def is_called(self, name: str) -> bool:
        """Whether a name, without ``configs/`` and ``.yaml``, is one of this model's."""
        short = self.model_id.rpartition("/")[2]
        return name in (short, self.model_id, f"sam2fast_{short}", f"{short}/sam2fast_{short}")


NANO = EmbeddedModel("sam2fast/nano", "configs/nano/sam2fast_nano.yaml", PACKAGE / "nano" / "weights.safetensors")
MINI = EmbeddedModel("sam2fast/mini", "configs/mini/sam2fast_mini.yaml", PACKAGE / "mini" / "weights.index.json", 768)
EMBEDDED = {model.model_id: model for model in (NANO, MINI)}


def find_embedded(name: str) -> EmbeddedModel | None:
    """The model of the package with this name, or None; see :meth:`EmbeddedModel.is_called`."""
    return next((model for model in EMBEDDED.values() if model.is_called(name)), None)
