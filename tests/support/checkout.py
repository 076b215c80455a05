"""A copy of the checkout without build products."""

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
LINKS = ("kernels", "configs")  # symbolic links in sam2fast/ to the folders of these names beside it


def copy_checkout(target: Path, symlinks: bool = True) -> bool:
    """Copies files that git has or would add; False without git. Links may become text files with their targets."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True)
    if listed.returncode:
        return False
    for name in filter(None, listed.stdout.decode().split("\0")):
        source, copied = ROOT / name, target / name
        copied.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink() and not symlinks:
            copied.write_text(source.readlink().as_posix(), encoding="utf-8")
        elif source.is_symlink() or source.exists():
            shutil.copy2(source, copied, follow_symlinks=False)
    return True
