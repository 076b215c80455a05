"""onnxruntime-web is fetched by npm, and refused if it is not the pinned package."""

import pytest

from sam2fast.demo.in_browser.runtime import RuntimeFetchError, write_runtime


def npm(folder, script):
    """An npm that runs a script."""
    (folder / "npm").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "npm").chmod(0o755)


def test_without_npm(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeFetchError, match=r"npm is missing.*onnxruntime-web@.*install Node\.js"):
        write_runtime(tmp_path / "runtime")


@pytest.mark.parametrize(
    ("script", "message"),
    [("echo no network >&2; exit 1", "no network"), ("echo x > other.tgz", "not the package that this page")],
)
def test_what_npm_cannot_fetch(tmp_path, monkeypatch, script, message):
    npm(tmp_path, script)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeFetchError, match=message):
        write_runtime(tmp_path / "runtime")
