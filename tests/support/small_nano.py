"""The shipped small model for smaller images, for commands that tests run many times."""

from pathlib import Path

from sam2fast.config import shipped_configs


def write_small_nano(file: Path, side: int = 128, **more: int) -> str:
    """Writes nano's configuration with another side of its input, and more settings of its model; gives the path."""
    text, its_side = shipped_configs()["nano/sam2fast_nano"].read_text(encoding="utf-8"), "  image_size: 256\n"
    assert its_side in text and not any(f"{name}:" in text for name in more)
    lines = "".join(f"  {name}: {value}\n" for name, value in {"image_size": side, **more}.items())
    file.write_text(text.replace(its_side, lines), encoding="utf-8")
    return str(file)
