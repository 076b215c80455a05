"""On the path of a rehearsal: packages that cannot be imported, and steps in which something goes wrong.

``SAM2FAST_TEST_MISSING`` names the packages. ``SAM2FAST_TEST_FAULTS`` is JSON: step -> what happens in it when torch is
imported.
"""

import importlib.abc
import json
import os
import sys


def _fail(fault: str) -> None:
    if fault == "raises":
        raise RuntimeError("a fault on purpose")
    if fault == "hangs":
        import subprocess
        import time

        subprocess.Popen(["sleep", "100"])  # which holds the pipes open
        time.sleep(100)
    if fault == "exits by a signal":
        import signal

        os.kill(os.getpid(), signal.SIGSEGV)
    if fault == "fills the disk":
        with open("/dev/full", "wb") as file:
            file.write(b"x")


class Finder(importlib.abc.MetaPathFinder):
    missing = set(os.environ.get("SAM2FAST_TEST_MISSING", "").split())
    faults = json.loads(os.environ.get("SAM2FAST_TEST_FAULTS", "{}"))

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        if name == "torch" and "--step" in sys.argv:
            _fail(self.faults.get(sys.argv[sys.argv.index("--step") + 1], ""))
        return None


sys.meta_path.insert(0, Finder())
