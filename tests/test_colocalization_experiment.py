"""Co-localisation as an experiment: its table, from records made up here."""

from dataclasses import replace

import pytest
import torch

from stn_helpers.colocalization import LARGEST, SEARCHES, SMALLEST, box_overlap, window_boxes
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
    train, test = (
        Digits(torch.rand(128, 1, 28, 28, generator=torch.Generator().manual_seed(seed)), labels) for seed in (0, 1)
    )
    monkeypatch.setattr(colocalization, "load_digits", lambda source: DigitData(train, test, source))
    taken = {}

    def spy(name):
        function = getattr(colocalization, name)

        def called(*arguments, **options):
            taken[name] = arguments, options, function(*arguments, **options)
            return taken[name][2]

        monkeypatch.setattr(colocalization, name, called)

    for name in ("code_digits", "digit_scenes", "colocalization_net", "find_common"):
        spy(name)
    # The last try is taken, whichever is the best: so its figures are told from those of the first.
    last, judge = SEARCHES[which := model.split("_")[0]].tries - 1, colocalization.best_try
    monkeypatch.setattr(colocalization, "best_try", lambda *arguments: (last, judge(*arguments)[1]))
    short = replace(SEARCHES[which], recipe=replace(SEARCHES[which].recipe, epochs=2))
    monkeypatch.setitem(SEARCHES, which, short)
    job = Job("colocalization", model, "TC", 2, measure)
    figures = measure(job, "cpu")
    assert taken["code_digits"][0][:2] == (train, 2)
    arguments, options, scenes = taken["digit_scenes"]
    assert (arguments, options) == ((test, 1, "TC"), {"seed": 201})
    net, history = taken["colocalization_net"][2], taken["find_common"][2]
    assert figures["losses"] == pytest.approx(history.losses[:, last].tolist(), abs=1e-4)
    assert figures["losses"] != pytest.approx(history.losses[:, 0].tolist(), abs=1e-4)
    theta = net.localization(scenes.images)[:, last]
    torch.testing.assert_close(torch.tensor(figures["windows"]), theta[:8], rtol=0, atol=6e-4)
    assert figures["scale"] == pytest.approx(theta[:, 0].mean().item(), rel=1e-5)
    covered = box_overlap(window_boxes(theta), scenes.boxes)
    assert figures["overlap"] == pytest.approx(covered.mean().item(), rel=1e-5)
    assert figures["right"] == pytest.approx(100 * (covered > 0.5).float().mean().item())
    save_result(job.name, figures, seeds=[2], command="python c")
    assert figures["best try"] == last > 0
    assert figures["parameters"] == parameters and len(figures["losses"]) == 2 and figures["seconds"] > 0
    assert len(figures["right of each try"]) == len(figures["loss of each try"]) == short.tries
    assert figures["right"] == figures["right of each try"][figures["best try"]] and 0 <= figures["right"] <= 100
    assert all(SMALLEST < scale < LARGEST for scale, *_ in figures["windows"]) and len(figures["windows"]) == 8
    assert rates(which, 1, "TC") == [figures["right"]]

    assert measure(job, "cpu") == figures  # as if killed behind the last step: nothing is trained anew
