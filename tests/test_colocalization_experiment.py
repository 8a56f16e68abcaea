"""Co-localisation as an experiment: its table, from records made up here."""

import pytest

from stn_helpers.experiments.colocalization import EXPERIMENT, rates, table
from stn_helpers.results import save_result


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("STN_RESULTS", str(tmp_path))


def test_there_is_a_job_for_every_net_digit_and_kind_of_images():
    jobs = EXPERIMENT.jobs()
    assert len(jobs) == len({job.name for job in jobs}) == 2 * 10 * 2 * 3
    assert "colocalization/attention_3_TC_0" in {job.name for job in jobs}


def test_the_table_says_what_the_records_say_beside_the_published_range():
    assert table() == "colocalization: nothing measured yet"
    for name, right in {"attention_3_T_0": 90.0, "attention_3_T_1": 80.0, "attention_7_T_0": 60.0}.items():
        save_result(f"colocalization/{name}", {"right": right}, seeds=[0], command="python c")
    assert rates("attention", 3, "T") == [90.0, 80.0] and rates("saliency", 3, "T") == []
    lines = {line.split("  ")[0].strip(): line.split() for line in table().splitlines()}
    assert lines["3"][1:] == ["85.00", "±", "7.07", "-", "-", "-"]
    assert lines["lowest"][1:] == ["60.00", "-", "-", "-"] and lines["highest"][1:] == ["85.00", "-", "-", "-"]
    assert lines["published, lowest"][2:] == ["100", "100", "75", "75"]
    assert lines["published, highest"][2:] == ["100", "100", "94", "94"]
