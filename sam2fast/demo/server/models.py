"""The models and tracking strategies that a page can choose from."""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sam2fast.demo.server.background import Download, Downloads
from sam2fast.demo.server.demo_errors import BadInputError, BusyError, NotAllowedError, NotFoundError, shortened
from sam2fast.demo.server.service import DemoService
from sam2fast.downloads import find_checkpoint, get_checkpoint
from sam2fast.downloads.catalog import offline_variable, own_cache, published, simplest_name
from sam2fast.sam2_video_predictor import SAM2VideoPredictor
from sam2fast.utils.embedded import find_embedded

MEGABYTE = 10**6
LoadModel = Callable[[str], SAM2VideoPredictor]


class OfferedModel(NamedTuple):
    """A model on the page: its title, the size of its weights, and what to expect of it."""

    title: str
    megabytes: int
    about: str


MODELS: Mapping[str, OfferedModel] = {
    "nano": OfferedModel(
        "nano",
        10,
        "For trying out this page, quick on a processor. Trained on synthetic clips: on real videos one click often "
        "takes more than the object, and tracks get lost. Not SAM 2.",
    ),
    "mini": OfferedModel(
        "mini", 29, "Derived from SAM 2 tiny and made smaller: its masks are worse, above all in videos. Not SAM 2."
    ),
    "tiny": OfferedModel("SAM 2.1 tiny", 156, "Meta's smallest model."),
    "small": OfferedModel("SAM 2.1 small", 184, "Little slower than tiny, a little better."),
    "base_plus": OfferedModel("SAM 2.1 base+", 324, "The official demo's default. Meant for a GPU."),
    "large": OfferedModel("SAM 2.1 large", 898, "Meta's best model, and the slowest. Meant for a GPU."),
}
STRATEGIES: Mapping[str, str] = {  # those that can show each frame when it is tracked
    "sam2": "SAM 2: the newest six frames",
    "samurai": "SAMURAI: one object that moves steadily among similar ones",
    "confident": "Confident: objects that are hidden for long",
    "dam4sam": "DAM4SAM: look-alikes beside the object",
    "d4sm": "D4SM: look-alikes, several objects",
    "together": "Together: suggested for several objects, above all look-alikes that cross",
}


def offline_reason() -> str | None:
    """Why the server downloads nothing; None if it does."""
    variable = offline_variable()
    return None if variable is None else f"{variable} is set on the server, so it downloads nothing"


def check_online() -> None:
    """Raises NotAllowedError if the server is offline."""
    if reason := offline_reason():
        raise NotAllowedError(reason)


class Models:
    """The server's model, and models that a page may choose instead if there is a function to load them."""

    def __init__(self, service: DemoService, load: LoadModel | None, strategy: str) -> None:
        self.strategy = strategy
        self._service, self._load = service, load
        found = published(service.model_name)
        service.model_name = service.model_name if found is None else simplest_name(found)
        self._downloads = Downloads({name: _download(name) for name in MODELS})
        self._changing = threading.Lock()

    def as_json(self) -> dict[str, Any]:
        """What the page shows."""
        current, offline = self._service.model_name, offline_reason()
        models = [
            {"name": name, **offered._asdict(), **self._downloads.status(name)} for name, offered in MODELS.items()
        ]
        if current not in MODELS:  # chosen by --checkpoint or a configuration
            offered = OfferedModel(current, 0, "The model that this server was started with.")
            models.append({"name": current, **offered._asdict(), "state": "ready", "share": 1.0, "problem": None})
        return {
            "current": current,
            "device": str(self._service.predictor.device),
            "imageSize": self._service.predictor.image_size,
            "mayChange": self._load is not None,
            "offline": offline and f"{offline}.",
            "models": models,
            "strategies": [{"name": name, "about": about} for name, about in STRATEGIES.items()],
            "strategy": self.strategy,
        }

    def download(self, name: str) -> None:
        """Starts a download. Raises errors as :meth:`use` does, and NotAllowedError if the server is offline."""
        self._check(name)
        check_online()
        self._downloads.start(name)

    def use(self, name: str) -> None:
        """Replaces the model, and closes all sessions: their states belong to the earlier one.

        Raises:
            NotAllowedError: this server's model is fixed.
            NotFoundError: there is no such model.
            BadInputError: its weights are not on this machine, or cannot be loaded.
            BusyError: another change is being made.
        """
        load = self._check(name)
        if self._downloads.status(name)["state"] != "ready":
            raise BadInputError(f"the weights of {name} are not on the server; download them first")
        if not self._changing.acquire(blocking=False):
            raise BusyError("the server is loading a model already")
        try:
            self._service.replace_model(name, load(name))
        except (OSError, ValueError, RuntimeError) as error:
            raise BadInputError(f"{name} cannot be loaded: {error}") from error
        finally:
            self._changing.release()

    def check_strategy(self, name: object) -> str:
        """Returns the name of a strategy from a client. Raises BadInputError if there is no such strategy."""
        if not isinstance(name, str) or name not in STRATEGIES:
            raise BadInputError(f"there is no strategy {shortened(name)}; expected {', '.join(STRATEGIES)}")
        return name

    def _check(self, name: str) -> LoadModel:
        if self._load is None:
            raise NotAllowedError("others can reach this server, so its model is chosen where it is started")
        if name not in MODELS:
            raise NotFoundError(f"there is no model {shortened(name)}; expected {', '.join(MODELS)}")
        return self._load


def _download(name: str) -> Download:
    found, size = published(name), MODELS[name].megabytes * MEGABYTE
    if find_embedded(name) is not None or found is None:
        return Download(lambda: True, lambda: None, list, size)

    def parts() -> list[Path]:
        return [own_cache() / f"{found.release.checkpoint}.part"]

    return Download(lambda: find_checkpoint(name) is not None, lambda: get_checkpoint(name, quiet=True), parts, size)
