"""What a run says: one line of JSON per report, TensorBoard where it is installed, a bar on the console."""

import json
import logging
import os
from pathlib import Path
from typing import Any

_log = logging.getLogger(__name__)


class Reporter:
    """Writes ``metrics.jsonl`` and, if asked and installed, TensorBoard events.

    Args:
        folder: where they go; made if missing.
        resumed_at: the step a run goes on from. Lines of later steps are dropped: they are written again. None to keep
            them all.

    Raises:
        ImportError: TensorBoard was asked for and is not installed.
    """

    def __init__(self, folder: Path, resumed_at: int | None = 0, tensorboard: bool = True) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "metrics.jsonl"
        if resumed_at is not None:
            _drop_after(self._path, resumed_at)
        self._writer: Any = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise ImportError(
                    "tensorboard=true needs the package tensorboard: pip install 'sam2fast[train]', "
                    "or set trainer.logging.tensorboard=false"
                ) from error
            self._writer = SummaryWriter(
                str(folder / "tensorboard"), purge_step=None if resumed_at is None else resumed_at + 1
            )

    def report(self, step: int, kind: str, values: dict[str, float]) -> None:
        """One line with ``step``, ``kind`` (such as ``train``) and the values."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "kind": kind, **values}) + "\n")
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class SilentReporter:
    """Writes nothing: for all processes of a run but the first."""

    def report(self, step: int, kind: str, values: dict[str, float]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def _drop_after(path: Path, step: int) -> None:
    """Removes the lines of steps after ``step``, and a last line that was cut off."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (json.JSONDecodeError, KeyError):
            _log.warning("%s: a line that is no report was dropped", path)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text("".join(kept), encoding="utf-8")
    os.replace(temporary, path)
