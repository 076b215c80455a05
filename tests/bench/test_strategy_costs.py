"""What strategies cost is measured for each part and number of objects, and written."""

import json

import pytest
import strategy_costs


@pytest.mark.parametrize(
    ("part", "model", "objects"),
    [pytest.param("times", "mini", ["2"], marks=pytest.mark.slow), ("pages", "nano", ["1", "2"])],
)
def test_parts(part, model, objects, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(strategy_costs, "FIRST", 2)
    options = ["--model", model, "--frames", "3", "--strategy", "sam2", "sam2long", "--out", f"{tmp_path}"]
    strategy_costs.main([part, "--objects", *objects, *options])
    (file,) = tmp_path.iterdir()
    report = json.loads(file.read_text())
    assert file.name.startswith(f"strategy-{part}-{model}-cpu-") and report["machine"]["torch"]
    rows = report["rows"]
    assert [(row["strategy"], row["objects"]) for row in rows] == [
        (name, int(count)) for count in objects for name in ("sam2", "sam2long")
    ]
    assert all(row["mib"] > 0 and row["rows"] >= row["pages"] / 2 > 0 for row in rows)
    assert rows[0]["pages"] < rows[1]["pages"]
    assert "| strategy | objects |" in capsys.readouterr().out
    if part == "times":
        assert rows[0]["ratio"] == 1 and all(len(row["samples_s"]) == 3 and row["ms"] > 0 for row in rows)
