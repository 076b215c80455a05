"""Files of results: of the day, merged by rows, and whole."""

import datetime
import json

import pytest
from reports import report_path, write_report, write_rows

TODAY = datetime.date.today().isoformat()


def test_a_report_begins_with_its_date(tmp_path):
    path = write_report(tmp_path / "new", "soak-cpu", machine={"cpu": "x"}, rows=[])
    assert path == report_path(tmp_path / "new", "soak-cpu") == tmp_path / "new" / f"soak-cpu-{TODAY}.json"
    assert list(json.loads(path.read_text()).items()) == [("date", TODAY), ("machine", {"cpu": "x"}), ("rows", [])]


def test_no_report_is_without_its_machine(tmp_path):
    with pytest.raises(TypeError, match="machine"):
        write_report(tmp_path, "soak-cpu", rows=[])
    assert not any(tmp_path.iterdir())


def test_rows_of_other_keys_stay(tmp_path):
    def write(*rows):
        written = write_rows(tmp_path, "vos-cpu", list(rows), key=lambda row: row["model"], machine={}, note="idle")
        return json.loads(written.read_text())["rows"]

    write({"model": "t", "s": 1}, {"model": "nano", "s": 2})
    assert write({"model": "t", "s": 3}, {"model": "t", "s": 4}) == [
        {"model": "nano", "s": 2},
        {"model": "t", "s": 3},
        {"model": "t", "s": 4},
    ]


def test_what_cannot_be_written_leaves_the_earlier_report(tmp_path):
    path = write_report(tmp_path, "curves-cpu", machine={}, rows=[1])
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_report(tmp_path, "curves-cpu", machine={}, rows=[object()])
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
