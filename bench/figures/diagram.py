"""``docs/two_models.svg``: what calls the modules of a model, and what computes from plans of their weights."""

from collections.abc import Iterator
from html import escape
from typing import NamedTuple

LINE, PADDING = 19, 12  # pixels
WIDTH, HEIGHT = 860, 424
FONT = 'font-family="system-ui, sans-serif" font-size="14"'
TITLE = (
    "Predictors call the engine, which computes unmodified parts from plans of their weights, and calls the modules of "
    "modified ones"
)


class Box(NamedTuple):
    """A box with a name and lines of text."""

    x: int
    y: int
    width: int
    name: str
    lines: tuple[str, ...]
    colour: str = "#94a3b8"

    @property
    def height(self) -> int:
        return LINE * (1 + len(self.lines)) + 2 * PADDING

    @property
    def centre(self) -> int:
        return self.x + self.width // 2


CALLERS = Box(20, 16, 540, "image predictor, automatic masks, video predictors, streams", ())
TRAINING = Box(590, 16, 250, "training, your own loops", ())
ENGINE = Box(20, 100, 540, "engine/__init__.py: the switch", (
    "for each of the four parts: are its modules unmodified, without",
    "hooks, patches or other classes, and are no gradients needed?",
), "#2563eb")  # fmt: skip
PLANS = Box(20, 226, 400, "engine/by_plan.py", (
    "from the weights in engine/plans",
), "#2563eb")  # fmt: skip
CPU = Box(20, 326, 190, "engine/cpu", ("in pieces that", "fit the cache"), "#2563eb")
GPU = Box(230, 326, 190, "engine/static", ("in few launches,", "which are recorded"), "#2563eb")
MODELING = Box(590, 226, 250, "modeling", (
    "modules with official names, one",
    "forward each: image encoder,",
    "prompts and masks, memory",
    "attention, memory encoder",
), "#0d9488")  # fmt: skip
BOXES = CALLERS, TRAINING, ENGINE, PLANS, CPU, GPU, MODELING


def two_models() -> str:
    """The diagram as an SVG image, readable on light and dark pages."""
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
    lines = [line for box in BOXES for line in _box(box)]
    head = '<path d="M0 0 8 4 0 8z" fill="#64748b"/>'
    marker = f'<marker id="end" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">{head}</marker>'
    return "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" {size} {FONT}>', f"<title>{escape(TITLE)}</title>",
                      f"<defs>{marker}</defs>", *lines, *_arrows(), "</svg>\n"])  # fmt: skip


def _box(box: Box) -> Iterator[str]:
    corner = f'x="{box.x}" y="{box.y}" width="{box.width}" height="{box.height}" rx="6"'
    yield f'<rect {corner} fill="none" stroke="{box.colour}" stroke-width="2"/>'
    y = box.y + PADDING + 14
    yield f'<text x="{box.x + PADDING}" y="{y}" fill="{box.colour}" font-weight="600">{escape(box.name)}</text>'
    for i, line in enumerate(box.lines, 1):
        yield f'<text x="{box.x + PADDING}" y="{y + i * LINE}" fill="#64748b">{escape(line)}</text>'


def _arrows() -> Iterator[str]:
    yield from _arrow((280, CALLERS.y + CALLERS.height), (280, ENGINE.y))
    yield from _arrow((PLANS.centre, ENGINE.y + ENGINE.height), (PLANS.centre, PLANS.y), "yes")
    yield from _arrow((CPU.centre, PLANS.y + PLANS.height), (CPU.centre, CPU.y))
    yield from _arrow((GPU.centre, PLANS.y + PLANS.height), (GPU.centre, GPU.y))
    corner = MODELING.x + 60
    yield from _arrow((ENGINE.x + ENGINE.width, 140), (corner, 140), "no", end=(corner, MODELING.y))
    yield from _arrow((MODELING.centre + 40, TRAINING.y + TRAINING.height), (MODELING.centre + 40, MODELING.y))
    yield from _arrow((MODELING.x, 254), (PLANS.x + PLANS.width, 254), "parameters", dashed=True)


def _arrow(
    start: tuple[int, int],
    to: tuple[int, int],
    label: str = "",
    end: tuple[int, int] | None = None,
    dashed: bool = False,
) -> Iterator[str]:
    """An arrow to a point, and on to ``end``."""
    points = " ".join(f"{x},{y}" for x, y in filter(None, (start, to, end)))
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    yield f'<polyline points="{points}" fill="none" stroke="#64748b" stroke-width="1.5"{dash} marker-end="url(#end)"/>'
    if label:
        x, y = (start[0] + to[0]) // 2, (start[1] + to[1]) // 2
        place = f'x="{x + 8}" y="{y + 4}"' if start[0] == to[0] else f'x="{x}" y="{y - 6}" text-anchor="middle"'
        yield f'<text {place} fill="#64748b">{label}</text>'
