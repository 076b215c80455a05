"""Makes file permissions apply: root, as in containers, may otherwise read every folder."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

VERSION_3 = 0x20080522  # of the header of capset(2)
OVERRIDES = 0b111  # CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH


@contextmanager
def permissions_count() -> Iterator[None]:
    """Inside, this thread has no more of root's rights to files than their owner."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        yield
        return
    if sys.platform != "linux":
        pytest.skip("here root cannot give up its rights for a while")
    libc = ctypes.CDLL(None, use_errno=True)
    header, before, without = (ctypes.c_uint32 * 2)(VERSION_3, 0), (ctypes.c_uint32 * 6)(), (ctypes.c_uint32 * 6)()
    if libc.capget(header, before):
        pytest.skip("capabilities cannot be read here")
    without[:] = before[:]
    without[0] &= ~OVERRIDES  # those in effect, of the first 32
    assert libc.capset(header, without) == 0
    try:
        yield
    finally:
        assert libc.capset(header, before) == 0
