"""The operating system, the processor and its memory."""

import os
import platform
import sys
from pathlib import Path
from typing import Any

GIB = 2**30
# Instruction sets that decide how products are made, as Linux names them.
INSTRUCTIONS = (
    *("avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_bf16", "amx_int8", "amx_fp16", "asimd", "asimdhp", "sve", "sve2", "bf16", "i8mm"),
)
CGROUP = Path("/sys/fs/cgroup")


def system_facts() -> dict[str, Any]:
    """Python and the operating system."""
    facts = {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "executable": sys.executable,
        "os": platform.platform(),
        "machine": platform.machine(),
    }
    libc = " ".join(part for part in platform.libc_ver() if part)
    return facts | ({"libc": libc} if libc else {}) | ({"distribution": name} if (name := _distribution()) else {})


def processor_facts() -> dict[str, Any]:
    """Model, instruction sets, cores, and how many of them this process may use."""
    info = _cpuinfo()
    flags = set((info.get("flags") or info.get("Features") or "").split())
    facts: dict[str, Any] = {
        "model": info.get("model name") or platform.processor() or "unknown",
        "instructions": [name for name in INSTRUCTIONS if name in flags],
        "logical cores": os.cpu_count(),
    }
    if hasattr(os, "sched_getaffinity"):
        facts["usable cores"] = len(os.sched_getaffinity(0))
    quota, _, period = _read(CGROUP / "cpu.max").partition(" ")
    if quota.isdecimal() and period.strip().isdecimal():
        facts["cores by quota"] = round(int(quota) / int(period), 2)
    return facts


def memory_facts() -> dict[str, Any]:
    """Of the machine, and the limit of the container if there is one, in GiB."""
    lines = dict(line.split(":", 1) for line in _read(Path("/proc/meminfo")).splitlines() if ":" in line)
    facts: dict[str, Any] = {}
    for label, name in (("total GiB", "MemTotal"), ("available GiB", "MemAvailable"), ("swap GiB", "SwapTotal")):
        if name in lines:
            facts[label] = round(int(lines[name].split()[0]) * 1024 / GIB, 1)
    if not facts and hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        facts["total GiB"] = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB, 1)
    limit = _read(CGROUP / "memory.max").strip()
    if limit.isdecimal():
        facts["limit GiB"] = round(int(limit) / GIB, 1)
    return facts


def _cpuinfo() -> dict[str, str]:
    """The first processor's entry."""
    entry = _read(Path("/proc/cpuinfo")).partition("\n\n")[0]
    pairs = (line.partition(":") for line in entry.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _distribution() -> str | None:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME")
    except OSError:
        return None


def _read(path: Path) -> str:
    """The text of a file, empty where there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
