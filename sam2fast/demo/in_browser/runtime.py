"""onnxruntime-web, which runs the model in the page. npm fetches it; it is not part of the package."""

import base64
import hashlib
import json
import shutil
import subprocess
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

from sam2fast.demo.server import BUNDLE
from sam2fast.utils.errors import FixableError

PINNED = BUNDLE / "runtime.json"  # name, version and integrity, from the front end's package-lock.json
# Files of the npm package: two scripts, of which the page loads one, and the WebAssembly of each.
FILES = {
    "wasm.js": "dist/ort.wasm.bundle.min.mjs",
    "wasm.wasm": "dist/ort-wasm-simd-threaded.wasm",
    "webgpu.js": "dist/ort.webgpu.bundle.min.mjs",
    "webgpu.wasm": "dist/ort-wasm-simd-threaded.asyncify.wasm",
}
LICENCES = ("LICENSE", "ThirdPartyNotices.txt")  # of onnxruntime's Python package, as the npm package has none


class RuntimeFetchError(FixableError, RuntimeError):
    """onnxruntime-web could not be fetched."""


def write_runtime(folder: Path) -> None:
    """Fetches onnxruntime-web by npm, or from npm's cache, and writes the files that the page loads.

    Raises:
        RuntimeFetchError: npm is missing or fails, or the package is not the pinned one.
        ImportError: onnxruntime is not installed.
        OSError: a file cannot be written.
    """
    import onnxruntime

    pinned = json.loads(PINNED.read_text(encoding="utf-8"))
    package = f"{pinned['name']}@{pinned['version']}"
    folder.mkdir(parents=True)
    with TemporaryDirectory() as temporary:
        archive = _packed(package, Path(temporary))
        digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
        if pinned["integrity"] != f"sha512-{digest}":
            raise RuntimeFetchError(f"{package} is not the package that this page was tested with: sha512-{digest}")
        with tarfile.open(archive) as files:
            for name, member in FILES.items():
                content = files.extractfile(f"package/{member}")
                assert content is not None
                with content, (folder / name).open("wb") as written:
                    shutil.copyfileobj(content, written)
    for name in LICENCES:
        shutil.copyfile(Path(onnxruntime.__file__).with_name(name), folder / name)


def _packed(package: str, folder: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise RuntimeFetchError(
            f"npm is missing, which fetches {package} to run the model in the page: install Node.js"
        )
    command = [npm, "pack", "--prefer-offline", "--silent", package]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True)  # noqa: S603  our own words
    found = list(folder.glob("*.tgz"))
    if result.returncode or not found:
        reason = (result.stderr or result.stdout).strip().splitlines()
        raise RuntimeFetchError(f"npm cannot fetch {package}: {reason[0] if reason else 'it wrote nothing'}")
    return found[0]
