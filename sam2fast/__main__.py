"""Runs the command ``sam2fast`` as ``python -m sam2fast``."""

from sam2fast.cli import main

if __name__ == "__main__":
    main(prog_name="sam2fast")
