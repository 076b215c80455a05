"""On the path of a rehearsal: packages that cannot be imported, and steps in which something goes wrong.

``SAM2FAST_TEST_MISSING`` names the packages, which are found in ``.carry`` only. ``SAM2FAST_TEST_FAULTS`` is JSON: step
-> the fault that happens in it when torch is imported.
"""

import importlib.abc
import importlib.machinery
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


class Faults(importlib.abc.MetaPathFinder):
    """Lets something go wrong in a step when it imports torch; finds nothing."""

    by_step = json.loads(os.environ.get("SAM2FAST_TEST_FAULTS", "{}"))

    def find_spec(self, name, path=None, target=None):
        if name == "torch" and "--step" in sys.argv:
            _fail(self.by_step.get(sys.argv[sys.argv.index("--step") + 1], ""))
        return None


class WithoutMissing(importlib.machinery.PathFinder):
    """Finds modules in folders, and the missing ones only in the folder of carried packages."""

    missing = set(os.environ.get("SAM2FAST_TEST_MISSING", "").split())

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] in cls.missing:
            path = [folder for folder in (sys.path if path is None else path) if f"{os.sep}.carry{os.sep}" in folder]
        return super().find_spec(name, path, target)


sys.meta_path[:] = [Faults(), *(WithoutMissing if x is importlib.machinery.PathFinder else x for x in sys.meta_path)]
