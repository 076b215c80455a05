"""Run as ``python bench/gpu``."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # The folder of the package, in place of the package itself.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

    from gpu.visit import main

    sys.exit(main())
