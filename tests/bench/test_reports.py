"""Files of results: of the day, and whole."""

import datetime
import json

import pytest
from reports import write_report

TODAY = datetime.date.today().isoformat()


def test_a_report_begins_with_its_date(tmp_path):
    path = write_report(tmp_path / "new", "soak-cpu", machine={"cpu": "x"}, rows=[])
    assert path == tmp_path / "new" / f"soak-cpu-{TODAY}.json"
    assert list(json.loads(path.read_text()).items()) == [("date", TODAY), ("machine", {"cpu": "x"}), ("rows", [])]


def test_what_cannot_be_written_leaves_the_earlier_report(tmp_path):
    path = write_report(tmp_path, "curves-cpu", machine={}, rows=[1])
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_report(tmp_path, "curves-cpu", machine={}, rows=[object()])
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
