"""Files of results: of the day, and whole."""

import datetime
import json

import pytest
from reports import write_report


def test_a_report_begins_with_its_date(tmp_path):
    days = [datetime.date.today().isoformat()]
    path = write_report(tmp_path / "new", "soak-cpu", machine={"cpu": "x"}, rows=[])
    days.append(datetime.date.today().isoformat())  # another one at midnight
    (_, date), *rest = json.loads(path.read_text()).items()
    assert date in days and path == tmp_path / "new" / f"soak-cpu-{date}.json"
    assert rest == [("machine", {"cpu": "x"}), ("rows", [])]


def test_what_cannot_be_written_leaves_the_earlier_report(tmp_path):
    path = write_report(tmp_path, "curves-cpu", machine={}, rows=[1])
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_report(tmp_path, "curves-cpu", machine={}, rows=[object()])
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
