"""Earlier names of modules and classes, in imports and pickles."""

import importlib
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import sam2fast
from sam2fast import _official_imports
from sam2fast.build_sam import build_sam2_video_predictor
from sam2fast.compat import moved_names

CONFIG = "configs/nano/sam2fast_nano.yaml"


@pytest.fixture
def moved(tmp_path, monkeypatch):
    """A package ``current`` that was ``earlier``. Its ``part`` was ``piece``, and its class ``New`` was ``Old``."""
    folder = tmp_path / "current"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "part.py").write_text("class New:\n    pass\n")
    (folder / "other.py").write_text("value = object()\n")
    monkeypatch.setattr(sam2fast, "__path__", [*sam2fast.__path__, str(tmp_path)])
    monkeypatch.setitem(moved_names.MOVED, "sam2fast.earlier", "sam2fast.current")
    monkeypatch.setitem(moved_names.MOVED, "sam2fast.current.piece", "sam2fast.current.part")
    monkeypatch.setitem(moved_names.RENAMED, "sam2fast.current.part", {"Old": "sam2fast.current.part.New"})
    monkeypatch.setattr(_official_imports, "DOCUMENTED", ("sam2fast.earlier",))
    yield
    for name in [name for name in sys.modules if name.startswith(("sam2fast.current", "sam2fast.earlier"))]:
        del sys.modules[name]
    for name in ("current", "earlier"):
        vars(sam2fast).pop(name, None)


@pytest.mark.parametrize(
    ("statement", "expression", "expected"),
    [
        ("import sam2fast.earlier", "sam2fast.earlier", "sam2fast.current"),
        ("import sam2fast.earlier as found", "found", "sam2fast.current"),
        ("from sam2fast import earlier", "earlier", "sam2fast.current"),
        ("import sam2fast.earlier.other", "sam2fast.earlier.other", "sam2fast.current.other"),
        ("import sam2fast.earlier.piece", "sam2fast.earlier.piece", "sam2fast.current.part"),
        ("from sam2fast.earlier import other", "other", "sam2fast.current.other"),
        ("from sam2fast.earlier import piece", "piece", "sam2fast.current.part"),
        ("from sam2fast.earlier.other import value", "value", "sam2fast.current.other.value"),
        ("from sam2fast.earlier.piece import Old", "Old", "sam2fast.current.part.New"),
        ("from sam2fast.current.part import Old", "Old", "sam2fast.current.part.New"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_imports_by_earlier_names(moved, statement, expression, expected):
    """Return the same modules and objects as imports by current names, in either order."""
    names: dict = {}
    exec(statement, names)
    found = eval(expression, names)
    home, _, last = expected.rpartition(".")
    assert found is getattr(importlib.import_module(home), last)


def test_missing_submodule_of_a_moved_package(moved):
    with pytest.warns(DeprecationWarning), pytest.raises(ModuleNotFoundError, match=r"sam2fast\.current\.nothing"):
        import sam2fast.earlier.nothing  # type: ignore[import-not-found]  # noqa: F401


@pytest.mark.parametrize("protocol", [0, 2])
def test_pickle_by_earlier_names(moved, protocol):
    from sam2fast.current.part import New  # type: ignore[import-not-found]

    data = pickle.dumps(New(), protocol=protocol)
    assert b"sam2fast.current.part\nNew\n" in data
    for earlier in (b"sam2fast.earlier.piece\nOld\n", b"sam2fast.current.part\nOld\n"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = pickle.loads(data.replace(b"sam2fast.current.part\nNew\n", earlier))
        assert type(found) is New and type(pickle.loads(pickle.dumps(found))) is New


def test_documented_module_gives_one_warning(moved):
    """At the line of the import, which names the current module. Other modules move silently."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        from sam2fast.earlier.piece import Old  # type: ignore[import-not-found]  # noqa: F401, I001
        import sam2fast.earlier.other  # type: ignore[import-not-found]
        import sam2fast.earlier  # noqa: F401
    assert [(one.category, one.filename) for one in caught] == [(DeprecationWarning, __file__)]
    assert "import Old" in Path(__file__).read_text().splitlines()[caught[0].lineno - 1]
    assert str(caught[0].message) == "sam2fast.earlier is deprecated; import sam2fast.current instead"


def test_every_current_name_exists():
    """And each earlier name is free."""
    folders = [Path(path) for path in sam2fast.__path__]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for earlier, current in moved_names.MOVED.items():
            assert importlib.import_module(earlier) is importlib.import_module(current)
            path = "/".join(earlier.split(".")[1:])
            assert not [f for f in folders if (f / path / "__init__.py").exists() or (f / f"{path}.py").exists()]
        for module, renamed in moved_names.RENAMED.items():
            for earlier, current in renamed.items():
                home, _, attribute = current.rpartition(".")
                ours = getattr(importlib.import_module(home), attribute)
                assert earlier not in vars(importlib.import_module(module))
                assert getattr(importlib.import_module(module), earlier) is ours
    renamed = {f"{module}.{name}" for module, names in moved_names.RENAMED.items() for name in names}
    assert {*moved_names.DOCUMENTED} <= {*moved_names.MOVED} | renamed


@pytest.mark.parametrize("name", ["sam2fast.video_results", "sam2fast.mask_formats"])
def test_earlier_packages_of_results(name, monkeypatch):
    """Offer every public name, and their submodules load pickles."""
    from sam2fast import results

    monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.warns(DeprecationWarning, match=f"^{name} is deprecated; import sam2fast.results instead$"):
        earlier = importlib.import_module(name)
    assert all(getattr(earlier, public) is getattr(results, public) for public in results.__all__)
    data = pickle.dumps(results.FrameMasks(0, [], None, None), protocol=0)
    assert b"sam2fast.results.frame_masks" in data
    found = pickle.loads(data.replace(b"sam2fast.results.", f"{name}.".encode()))
    assert type(found) is results.FrameMasks


def test_documented_class_gives_a_warning_at_the_line_of_the_import():
    from sam2fast.modeling.sam2_base import MaskChooser

    with pytest.warns(
        DeprecationWarning, match=r"^sam2fast\.modeling\.sam2_base\.HypothesisSelection is .*MaskChooser"
    ) as caught:
        from sam2fast.modeling.sam2_base import HypothesisSelection  # type: ignore[attr-defined]
    assert HypothesisSelection is MaskChooser and caught[0].filename == __file__


def test_predictors_that_version_0_3_pickled():
    """Load, and track. They were pickled with an object of the class Steps, which is gone, and with dicts of tables."""
    small = {"device": "cpu", "hydra_overrides_extra": ["++model.image_size=64"], "vos_optimized": True}
    predictor = build_sam2_video_predictor(CONFIG, None, **small)
    vars(predictor)["_steps"] = steps = SimpleNamespace(explain=True, _changes=3)
    with_tables = [module for module in predictor.modules() if "_tables" in vars(module)]
    for module in with_tables:
        module._tables = {}
    data = pickle.dumps(predictor, protocol=2)
    found = pickle.loads(data.replace(b"ctypes\nSimpleNamespace\n", b"csam2fast.tracking.steps\nSteps\n"))
    assert vars(found)["_steps"] == steps and b"ctypes\nSimpleNamespace\n" in data and len(with_tables) > 2
    assert found.explains_eager and "explains_eager" not in vars(found)
    state = found.init_state([np.zeros((64, 64, 3), np.uint8)] * 2)
    found.add_new_points_or_box(state, 0, 1, [[32, 32]], [1])
    assert [frame for frame, *_ in found.propagate_in_video(state, progress=False)] == [0, 1]


def test_importing_the_package_gives_no_warning():
    subprocess.run([sys.executable, "-W", "error::DeprecationWarning", "-c", "import sam2fast"], check=True)
