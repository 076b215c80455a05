"""The colours of objects in films to take away, which are those that the page shows them in.

Source: the original's demo; the page has the same table in ``demo/frontend/src/state/scene.ts``.
"""

from sam2fast.io.overlay import Colour

COLOURS: tuple[Colour, ...] = (
    (0x38, 0x80, 0xF3),
    (0xF0, 0xAA, 0x19),
    (0x00, 0xD2, 0xBE),
    (0x28, 0xD2, 0x32),
    (0x87, 0x73, 0xFF),
    (0x00, 0xC8, 0xF0),
    (0xFA, 0x87, 0x19),
    (0xE6, 0x19, 0x3B),
    (0xFA, 0x7D, 0xC8),
)


def colour_of(object_id: int) -> Colour:
    """The colour of an object, the first for 1."""
    return COLOURS[(object_id - 1) % len(COLOURS)]
