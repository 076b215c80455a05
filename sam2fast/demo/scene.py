"""A synthetic still life to segment: tulips in a vase, an apple, a mug and a book."""

import numpy as np
from PIL import Image

from sam2fast.demo.canvas import Canvas, SurfaceOfRevolution, blurred, curve, lit

WIDTH, HEIGHT = 960, 640
TABLE = 392  # y of the table's far edge

CLAY, GLAZE = (0.92, 0.87, 0.78), (0.13, 0.42, 0.50)
VASE = SurfaceOfRevolution(
    (250, 482), ((0, 36), (8, 45), (45, 67), (85, 77), (125, 69), (160, 43), (185, 28), (205, 26), (222, 38))
)
MUG = SurfaceOfRevolution((600, 520), ((0, 48), (7, 56), (30, 60), (80, 60), (126, 60)))
APPLE = SurfaceOfRevolution((410, 578), ((0, 18), (6, 35), (26, 54), (54, 60), (78, 52), (92, 35), (98, 16)))
PETAL = ((0, 3), (6, 12), (20, 16), (40, 12), (54, 3))
TULIPS = ((180, 160, (0.82, 0.17, 0.22)), (252, 116, (0.95, 0.68, 0.16)), (318, 164, (0.88, 0.34, 0.52)))


def draw_scene() -> Image.Image:
    """Draws the still life, RGB, 960x640; every call returns the same."""
    rng = np.random.default_rng(7)
    canvas = Canvas.of_size(WIDTH, HEIGHT)
    _draw_room(canvas, rng)
    _draw_window(canvas.part(50, 0, 470, 370))
    for item in (VASE, MUG, APPLE):
        (x, y), length = item.foot, item.heights[-1]
        item.cast_shadow(canvas.part(x - 110, y - 60, x + length + 110, y + 60))
    _draw_book(canvas.part(640, 400, WIDTH, HEIGHT))
    _draw_tulips(canvas.part(100, 40, 400, 300))
    vase = VASE.surroundings(canvas)
    VASE.draw(vase, GLAZE, gloss=0.8)
    VASE.open_mouth(vase, rim=(0.22, 0.52, 0.60), inside=(0.06, 0.17, 0.20), filling=(0.03, 0.09, 0.10))
    _draw_handle(canvas.part(620, 380, 720, 520), 662, 454)
    mug = MUG.surroundings(canvas)
    MUG.draw(mug, CLAY, gloss=0.4)
    MUG.open_mouth(mug, rim=(0.97, 0.93, 0.86), inside=(0.62, 0.56, 0.48), filling=(0.22, 0.12, 0.06))
    apple = APPLE.surroundings(canvas)
    blush = np.clip(0.9 * apple.clouds(rng, 3, 22) - 0.3 - (apple.x[..., None] - 400) / 130, 0, 1)
    APPLE.draw(apple, blush * np.array((0.88, 0.52, 0.18)) + (1 - blush) * np.array((0.76, 0.09, 0.09)), gloss=0.6)
    _draw_stalk(canvas.part(360, 430, 480, 520), 410, 485)
    grain = rng.normal(0, 0.012, (HEIGHT, WIDTH, 1))
    return Image.fromarray((255 * np.clip(canvas.finished() + grain, 0, 1)).round().astype(np.uint8))


def _draw_room(canvas: Canvas, rng: np.random.Generator) -> None:
    glow = np.exp(-(((canvas.x - 260) / 420) ** 2) - ((canvas.y - 200) / 330) ** 2)[..., None]
    wall = np.array((0.60, 0.57, 0.52)) + glow * np.array((0.20, 0.19, 0.17))
    canvas.pixels[:] = wall * (0.985 + 0.03 * canvas.clouds(rng, 60, 90))
    table = canvas.part(0, TABLE, WIDTH, HEIGHT)
    grain = 0.6 * table.clouds(rng, 90, 7) + 0.4 * table.clouds(rng, 240, 30)
    near = (table.y[..., None] - TABLE) / (HEIGHT - TABLE)
    wood = np.array((0.56, 0.36, 0.21)) * (0.80 + 0.36 * grain) * (1.06 - 0.22 * near)
    table.pixels[:] = wood + 0.10 * glow[-table.y.shape[0] :]
    edge = canvas.part(0, TABLE - 10, WIDTH, TABLE + 10)
    edge.blend((0.20, 0.13, 0.09), 0.6 * blurred(edge.box(0, TABLE - 1, WIDTH, TABLE + 2), 1.5))


def _draw_window(canvas: Canvas) -> None:
    """Draws the frame, the view through two by two panes, and the sill."""
    x0, y0, x1, y1 = 92, 24, 424, 318
    canvas.blend((0.25, 0.22, 0.20), 0.5 * blurred(canvas.box(x0 - 4, y0, x1 + 16, y1 + 30), 9))
    canvas.blend((0.90, 0.89, 0.86), canvas.box(x0 - 14, y0 - 14, x1 + 14, y1 + 14))
    height = np.clip((canvas.y - y0) / (y1 - y0), 0, 1)[..., None]
    view = (1 - height) * np.array((0.53, 0.73, 0.93)) + height * np.array((0.93, 0.96, 0.98))
    for level, rise, wave, colour in ((205, 22, 70, (0.60, 0.74, 0.72)), (248, 14, 45, (0.46, 0.64, 0.42))):
        hill = blurred(canvas.y > level + rise * np.sin(canvas.x / wave + level), 4)[..., None]
        view += hill * (np.array(colour) - view)
    canvas.blend(view, canvas.box(x0, y0, x1, y1))
    for bar in ((274, y0, 282, y1), (x0, 170, x1, 177)):
        canvas.blend((0.84, 0.83, 0.80), canvas.box(*bar))
    canvas.blend((0.95, 0.94, 0.91), canvas.box(x0 - 30, y1 + 14, x1 + 30, y1 + 26))
    canvas.blend((0.70, 0.67, 0.63), canvas.box(x0 - 30, y1 + 26, x1 + 30, y1 + 36))


def _draw_tulips(canvas: Canvas) -> None:
    mouth = (VASE.foot[0], VASE.foot[1] - 200)
    for tip, bend in (((150, 190), (214, 176)), ((352, 204), (286, 190))):
        leaf = curve(mouth, bend, tip) + curve(tip, (bend[0] + 4, bend[1] + 44), mouth)
        canvas.blend((0.22, 0.42, 0.20), canvas.polygon(leaf))
        canvas.blend((0.33, 0.54, 0.28), canvas.line(curve(mouth, (bend[0] + 2, bend[1] + 20), tip), 1.5))
    for x, y, colour in TULIPS:
        canvas.blend((0.26, 0.48, 0.20), canvas.line(curve(mouth, (x, 240), (x, y)), 5))
        for shift, light in ((-9, 0.85), (9, 0.75), (0, 1.0)):
            petal = SurfaceOfRevolution((x + shift, y + 4), PETAL)
            petal.draw(petal.surroundings(canvas), light * np.array(colour), gloss=0.05)


def _draw_book(canvas: Canvas) -> None:
    """Draws a closed book that lies flat, its pages towards the viewer."""
    (ax, ay), (bx, by), (cx, cy), (dx, dy) = (690, 516), (906, 536), (716, 448), (900, 462)
    thick = 34
    canvas.blend((0.10, 0.05, 0.03), 0.6 * blurred(canvas.polygon(((ax, 548), (cx, 490), (930, 496), (932, 574))), 7))
    canvas.blend((0.93, 0.89, 0.80), canvas.polygon(((ax, ay), (bx, by), (bx, by + thick), (ax, ay + thick))))
    for k in range(6, thick, 3):
        canvas.blend((0.72, 0.66, 0.56), 0.7 * canvas.line(((ax, ay + k), (bx, by + k)), 1))
    top = ((ax - 4, ay), (bx + 5, by), (dx + 4, dy), (cx - 2, cy))
    cover = np.array((0.13, 0.20, 0.40)) + 0.10 * np.clip((900 - canvas.x) / 220, 0, 1)[..., None]
    canvas.blend(0.6 * cover, canvas.polygon([(x, y + 5) for x, y in top]))
    canvas.blend(cover, canvas.polygon(top))
    canvas.blend((0.09, 0.14, 0.30), canvas.line(((ax - 4, ay + thick), (bx + 5, by + thick)), 4))
    for x, y, length in ((748, 472, 112), (744, 484, 84)):
        canvas.blend((0.85, 0.74, 0.45), canvas.line(((x, y), (x + length, y + 0.08 * length)), 5))


def _draw_handle(canvas: Canvas, x: float, y: float) -> None:
    """Draws a ring of clay; the mug hides its left half later."""
    dx, dy = canvas.x - x, 0.85 * (canvas.y - y)
    distance = np.hypot(dx, dy)
    across = np.clip((distance - 30) / 8, -1, 1)
    normal = np.stack([across * dx / distance, -across * dy / distance, np.sqrt(1 - across**2)], axis=-1)
    canvas.blend(lit(normal, CLAY, gloss=0.4), np.abs(distance - 30) < 8)


def _draw_stalk(canvas: Canvas, x: float, y: float) -> None:
    canvas.blend((0.28, 0.05, 0.04), 0.75 * blurred(canvas.ellipse(x, y + 2, 15, 4), 3))
    canvas.blend((0.27, 0.18, 0.09), canvas.line(curve((x, y + 3), (x + 1, y - 12), (x + 10, y - 24)), 4))
    foot, tip = (x + 3, y - 8), (x + 46, y - 22)
    canvas.blend(
        (0.33, 0.52, 0.17), canvas.polygon(curve(foot, (x + 22, y - 36), tip) + curve(tip, (x + 28, y - 4), foot))
    )
    canvas.blend((0.47, 0.66, 0.29), canvas.line(curve(foot, (x + 24, y - 20), tip), 1.5))
