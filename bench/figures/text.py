"""Numbers, names and tables as the documents write them."""

from collections.abc import Sequence
from typing import Any

MODELS = {"t": "tiny", "s": "small", "b+": "base+", "l": "large", "nano": "nano"}
WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"|{'|'.join(line)}|" if line[0] == "---" else f"| {' | '.join(line)} |" for line in lines)


def seconds(value: float | None, digits: int = 2) -> str:
    """With its unit, in milliseconds below a tenth of a second."""
    if value is None:
        return "–"
    return f"{value:.{digits}f} s" if value >= 0.1 else f"{value * 1e3:.{1 if value >= 0.01 else 2}f} ms"


def times(value: float, digits: int = 2) -> str:
    return f"{value:.{digits}f}×"


def small(value: float) -> str:
    """A difference, with two digits."""
    return f"{value:.1f}" if value >= 0.1 else f"{value:.1e}".replace("e-0", "e-") if value else "0"


def count(number: int) -> str:
    """In words up to twelve."""
    return WORDS[number] if number < len(WORDS) else f"{number:,}"


def counted(number: int, thing: str) -> str:
    return f"{count(number)} {thing}{'' if number == 1 else 's'}"


def model(size: str) -> str:
    return MODELS.get(size, size)


def machine(about: dict[str, Any]) -> str:
    """What was measured on, as a piece of a sentence."""
    python = ".".join(about["python"].split(".")[:2])
    versions = f"torch {about['torch'].split('+')[0]}, Python {python}"
    if "gpu" in about:
        return f"{about['gpu']}, {versions}"
    vectors = about.get("capability", "")
    return (
        f"{counted(about['threads'], 'thread')} of an {about['cpu']}{f' with {vectors}' if vectors else ''}, {versions}"
    )


def capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]
