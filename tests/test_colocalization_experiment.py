"""Co-localisation as an experiment: its table, from records made up here."""

from dataclasses import replace

import pytest
import torch

from stn_helpers.colocalization import LARGEST, SEARCHES, SMALLEST
from stn_helpers.data import DigitData, Digits
from stn_helpers.experiments import colocalization
from stn_helpers.experiments.colocalization import EXPERIMENT, measure, rates, table
from stn_helpers.experiments.jobs import Job
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
    assert rates("attention", 3, "T") == [90.0, 80.0] and rates("blind", 3, "T") == []
    lines = {line.split("  ")[0].strip(): line.split() for line in table().splitlines()}
    assert lines["3"][1:] == ["85.00", "±", "7.07", *3 * ["-"]]
    assert lines["lowest"][1:] == ["60.00", *3 * ["-"]] and lines["highest"][1:] == ["85.00", *3 * ["-"]]
    assert lines["published, lowest"][2:] == [*2 * ["100"], *2 * ["75"]]
    assert lines["published, highest"][2:] == [*2 * ["100"], *2 * ["94"]]


@pytest.mark.parametrize(("model", "parameters"), [("attention_1", 5947), ("blind_1", 7893)])
def test_a_job(monkeypatch, model, parameters):
    labels = torch.tensor([1] * 100 + [2] * 28)
    digits = Digits(torch.rand(128, 1, 28, 28, generator=torch.Generator().manual_seed(0)), labels)
    monkeypatch.setattr(colocalization, "load_digits", lambda source: DigitData(digits, digits, source))
    net = model.split("_")[0]
    short = replace(SEARCHES[net], recipe=replace(SEARCHES[net].recipe, epochs=2))
    monkeypatch.setitem(SEARCHES, net, short)
    job = Job("colocalization", model, "TC", 0, measure)
    figures = measure(job, "cpu")
    save_result(job.name, figures, seeds=[0], command="python c")
    assert figures["parameters"] == parameters and len(figures["losses"]) == 2 and figures["seconds"] > 0
    assert len(figures["right of each try"]) == len(figures["loss of each try"]) == short.tries
    assert figures["right"] == figures["right of each try"][figures["best try"]] and 0 <= figures["right"] <= 100
    assert all(SMALLEST < scale < LARGEST for scale, *_ in figures["windows"]) and len(figures["windows"]) == 8
    assert rates(net, 1, "TC") == [figures["right"]]

    assert measure(job, "cpu") == figures  # as if killed behind the last step: nothing is trained anew
