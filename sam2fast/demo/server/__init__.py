"""The web demo's server: a gallery, uploads and tracking sessions over HTTP. See docs/serve.md."""

import os
from pathlib import Path

# The built page. Tests in a browser name one of the present sources.
BUNDLE = Path(os.environ.get("SAM2FAST_PAGE") or Path(__file__).with_name("static"))
