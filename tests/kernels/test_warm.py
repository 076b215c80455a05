"""What has to be compiled is collected without launching anything."""

import threading

import pytest

from sam2fast.kernels._warm import collecting

JITFunction = pytest.importorskip("triton.runtime.jit").JITFunction


def some_kernel():
    pass


def test_also_kernels_that_are_compiled_are_not_launched(monkeypatch):
    """A kernel that is compiled would read what one that is not has not written."""
    warmed = []
    monkeypatch.setattr(JITFunction, "run", lambda kernel, *args, grid, warmup: warmed.append(warmup))
    launch = JITFunction(some_kernel)[(1,)]
    launch()
    with collecting():
        launch()
        thread = threading.Thread(target=launch)  # of another video, which is tracked meanwhile
        thread.start()
        thread.join()
    launch()
    assert warmed == [False, True, False, False]


def test_one_thread_collects_at_a_time():
    entered = []

    def collect():
        with collecting():
            entered.append(True)

    run = JITFunction.run
    with collecting():
        thread = threading.Thread(target=collect)
        thread.start()
        thread.join(0.1)
        assert not entered
    thread.join()
    assert entered and JITFunction.run is run
