"""Names that formats tend to damage: other scripts, quotes, spaces, slashes, text from right to left, and the like."""

HARD_NAMES = [
    "肝臓",
    "كبد",
    "שלום: 1",
    "\N{LUNGS} lung",
    "e\N{COMBINING ACUTE ACCENT}\N{COMBINING CEDILLA}",
    "a 'b' \"c\"",
    "left/right",
    "left\\right",
    "  spaces  ",
    "- {x}: [#1] & <2>, %20",
    "line\nbreak",
    "tab\tdel\x7f\x85",
    "\N{RIGHT-TO-LEFT OVERRIDE}abc\N{POP DIRECTIONAL FORMATTING}",
    "null",
    "1",
    "x" * 100,
]
