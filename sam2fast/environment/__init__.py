"""What a report of a bug needs to say about the machine: ``sam2fast env``.

::

    from sam2fast.environment import describe
    describe()["gpu"]
"""

import traceback
from collections.abc import Callable
from typing import Any

from sam2fast.environment import devices, machine, selftest, software, variables
from sam2fast.environment.secrets import without_secrets

SECTIONS: dict[str, Callable[[], dict[str, Any]]] = {
    "sam2fast": software.sam2fast_facts,
    "system": machine.system_facts,
    "processor": machine.processor_facts,
    "memory": machine.memory_facts,
    "torch": devices.torch_facts,
    "gpu": devices.gpu_facts,
    "triton": software.triton_facts,
    "ops": devices.op_facts,
    "packages": software.package_facts,
    "variables": variables.variable_facts,
    "checkpoints": software.checkpoint_facts,
}


def describe(check: bool = False, device: str = "auto") -> dict[str, dict[str, Any]]:
    """All that is known, by section, as JSON can hold it. Never raises: a section that fails has its error in it.

    Tokens, passwords and keys are left out; the home directory is ``~``.

    Args:
        check: add the section ``check``: the embedded model segments a picture and tracks three frames.
        device: for the check.
    """
    sections = dict(SECTIONS)
    if check:
        sections["check"] = lambda: selftest.check_facts(device)
    return {name: without_secrets(_facts(function)) for name, function in sections.items()}


def _facts(function: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return function()
    except Exception as error:  # whatever is broken is what the report is about
        where = traceback.extract_tb(error.__traceback__)[-1]
        return {"error": f"{type(error).__name__}: {error}", "where": f"{where.filename}:{where.lineno}"}
