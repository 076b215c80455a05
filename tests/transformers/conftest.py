"""Makes this folder's helper modules importable; pytest does not in importlib mode."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
