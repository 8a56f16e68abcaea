"""The long measurements: the runner against kills, failures and doubles; the benchmark's figures; the report."""

import os
import platform
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import termios
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny_jobs
import torch
import torch.nn.functional as F
from conftest import ROOT

from stn_helpers.data import DataError, DigitData, Digits
from stn_helpers.experiments import __main__ as command_line
from stn_helpers.experiments import ablations, attention, jobs, runs
from stn_helpers.experiments.attention import (
    CONTRASTS,
    ECCENTRICITIES,
    PUBLISHED,
    field_cell,
    grid_of,
    measure_cell,
    off_target,
    true_crop,
)
from stn_helpers.experiments.cluster import _ending, _unfit, on_cluster
from stn_helpers.experiments.jobs import Experiment, Job, checkpoint_path, do_job, state, stored_seeds
from stn_helpers.experiments.runs import KEEP_MEMORY, Event, in_processes, run_jobs
from stn_helpers.experiments.tables import columns, spread
from stn_helpers.files import write_atomically
from stn_helpers.networks import SearchingSTN, field_stn
from stn_helpers.noisy_field import field_theta, random_field
from stn_helpers.results import has_result, load_result, load_weights, results_folder, save_result
from stn_helpers.training import Recipe
from stn_helpers.transforms import Affine, Attention


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty folder of results, in which a run of jobs writes everything that it writes."""
    monkeypatch.setenv("STN_RESULTS", str(tmp_path / "results"))
    return tmp_path / "results"


def tree(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def fake_digits(count: int, seed: int = 0) -> Digits:
    """Grey images with a blob of ink, and labels without meaning."""
    generator = torch.Generator().manual_seed(seed)
    images = F.interpolate(torch.rand(count, 1, 7, 7, generator=generator), size=(28, 28), mode="bilinear")
    return Digits(images * (images > 0.5), torch.randint(0, 10, (count,), generator=generator))


two_processes = partial(in_processes, processes=2, device="cpu")


# The runner ---------------------------------------------------------------------------------------------------


def test_results_and_checkpoints_lie_where_the_environment_says(folder, monkeypatch):
    job = Job("attention", "affine", "", 3, tiny_jobs.train)
    assert results_folder() == folder
    assert checkpoint_path(job) == folder / "checkpoints" / "attention" / "affine_3.safetensors"
    monkeypatch.delenv("STN_RESULTS")
    assert results_folder() == ROOT / "results"
    assert checkpoint_path(job) == ROOT / "checkpoints" / "attention" / "affine_3.safetensors"


def test_where_the_digits_are_missing_the_way_out_is_said_and_no_traceback(folder, capfd):
    with pytest.raises(RuntimeError, match=r"not done: tiny/blind_0 \(see its message above\)"):
        run_jobs([Job("tiny", "blind", "", 0, tiny_jobs.find_no_digits)], two_processes)
    assert capfd.readouterr().err == "MNIST cannot be had: this is the way out\n"


def test_a_killed_job_and_a_failing_one_leave_the_others_alone_and_the_killed_one_goes_on(folder, capfd):
    killed, alone = Job("tiny", "killed", "", 1, tiny_jobs.train), Job("tiny", "alone", "R", 1, tiny_jobs.train)
    failing = Job("tiny", "failing", "", 0, tiny_jobs.fail)
    with pytest.raises(RuntimeError) as error:
        run_jobs([killed, failing, alone, alone], two_processes)
    assert "tiny/killed_1 (ended by SIGKILL)" in str(error.value)
    assert "tiny/failing_0 (" in str(error.value) and "tiny/alone_R_1" not in str(error.value)
    out, err = capfd.readouterr()
    assert "ZeroDivisionError: a job that fails" in err and "step" not in err  # no bar where there is no terminal
    assert "3 jobs, 0 done" in out and "done: tiny/alone_R_1" in out and "(3 of 3, about 00:00 left)" in out
    assert {name for name in tree(folder) if name.endswith(".json")} == {"tiny/alone_R_1.json"}
    assert "checkpoints/tiny/killed_1.safetensors" in tree(folder)

    before = (folder / "tiny" / "alone_R_1.json").stat()
    run_jobs([killed, alone], two_processes)
    assert "2 jobs, 1 done" in capfd.readouterr().out
    assert (folder / "tiny" / "alone_R_1.json").stat() == before
    one, other = load_result("tiny/killed_1")["figures"], load_result("tiny/alone_R_1")["figures"]
    assert other.pop("first watched") == 0
    assert one.pop("first watched") == tiny_jobs.KILLED_AFTER + 1  # it did not begin anew
    assert one == other and len(one["losses"]) == 12
    commands = [load_result(f"tiny/{name}")["command"] for name in ("killed_1", "alone_R_1")]
    assert commands == [
        f"python -m stn_helpers.experiments run tiny --models {which} --seeds 1" for which in ("killed", "alone --data R")
    ]
    assert not any("killed_1" in name for name in tree(folder / "checkpoints"))

    run_jobs([killed, alone], two_processes)
    assert "2 jobs, 2 done" in capfd.readouterr().out


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are those of GNU's C library")
def test_memory_that_a_job_has_freed_is_kept_for_it(folder, monkeypatch):
    for name in KEEP_MEMORY:
        monkeypatch.setenv(name, "")  # so that what in_processes sets is taken back
        monkeypatch.delenv(name)
    run_jobs([Job("tiny", "look", "", 0, tiny_jobs.look)], two_processes)
    assert load_result("tiny/look_0")["figures"]["pages"] < 800  # one tensor of 128×56×56×2 numbers has 784


def test_a_job_that_another_process_is_at_is_left_to_it(folder, capfd):
    job = Job("tiny", "count", "", 0, tiny_jobs.count)
    with jobs._alone(job), pytest.raises(RuntimeError, match="tiny/count_0"):
        run_jobs([job], two_processes)
    assert "tiny/count_0: another process is at work on it" in capfd.readouterr().err
    assert not has_result("tiny/count_0") and not (folder / "count.txt").exists()


def test_a_patient_job_waits_for_the_other_process(folder):
    job = Job("tiny", "count", "", 0, tiny_jobs.count)
    with ThreadPoolExecutor(1) as pool:
        with jobs._alone(job):
            with pytest.raises(BlockingIOError, match="tiny/count_0: another process is at work on it"):
                do_job(job, "cpu", patience=0.3)
            patient = pool.submit(do_job, job, "cpu", patience=60.0)
            time.sleep(0.3)
            assert not patient.done() and not (folder / "count.txt").exists()
        patient.result()
    assert has_result("tiny/count_0")


def test_two_runs_at_once_do_a_job_once(folder, capfd):
    job = Job("tiny", "count", "", 0, tiny_jobs.count)
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(run_jobs, [job], two_processes) for _ in "ab"]
    # The slower one is turned away, or finds the record; which of the two is a matter of chance.
    assert sum(future.exception() is None for future in both) >= 1
    assert (folder / "count.txt").read_text().split() == ["tiny/count_0"]
    assert load_result("tiny/count_0")["figures"] == {"accuracy": 1.0}


def ended(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM"])
def test_a_run_that_is_stopped_takes_its_processes_along_and_leaves_no_record(folder, how):
    program = (
        "import tiny_jobs; from stn_helpers.experiments.runs import in_processes, run_jobs\n"
        "from stn_helpers.experiments.jobs import Job\n"
        "if __name__ == '__main__':\n"
        "    jobs = [Job('tiny', 'sleep', '', seed, tiny_jobs.sleep) for seed in range(3)]\n"
        "    run_jobs(jobs, lambda jobs: in_processes(jobs, processes=2, device='cpu'))"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    terminal, its_end = pty.openpty()
    termios.tcsetwinsize(its_end, (24, 200))
    # What a shell puts in the background ignores Ctrl-C, and hands that down: the program begins as in a terminal.
    program = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n{program}"
    runner = subprocess.Popen([sys.executable, "-c", program], env=environment, stderr=its_end, start_new_session=True)
    os.close(its_end)
    begun, bar, deadline = [folder / f"{seed}.begun" for seed in (0, 1)], "", time.monotonic() + 300
    while not all(file.exists() for file in begun) or "at work: tiny/sleep_0, tiny/sleep_1" not in bar:
        if select.select([terminal], [], [], 1.0)[0]:
            bar += os.read(terminal, 10_000).decode(errors="replace")
        assert time.monotonic() < deadline
    assert "0/3" in bar
    processes = [int(file.read_text()) for file in begun]
    if how == "Ctrl-C":
        os.killpg(runner.pid, signal.SIGINT)  # as a terminal does: to all of them
    else:
        runner.terminate()
    assert runner.wait(60) != 0
    os.close(terminal)
    while not all(map(ended, processes)):
        time.sleep(0.05)
        assert time.monotonic() < deadline + 60
    assert tree(folder) == {"0.begun", "1.begun"} | {f"checkpoints/tiny/sleep_{seed}.lock" for seed in (0, 1)}


@pytest.mark.parametrize(("count", "threads"), [(1, 6), (2, 3), (3, 3)])
def test_jobs_share_the_threads_of_their_parent(folder, monkeypatch, count, threads):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    many = [Job("tiny", "threads", "", seed, tiny_jobs.threads) for seed in range(count)]
    run_jobs(many, two_processes)
    assert [load_result(job.name)["figures"]["threads"] for job in many] == [threads] * count


def test_the_time_left_is_that_of_the_jobs_so_far(folder, monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr(runs, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    def way(jobs):
        for job in jobs:
            clock[0] += 30.0
            yield Event(job, "done")

    run_jobs([Job("tiny", "count", "", seed, tiny_jobs.count) for seed in range(4)], way)
    assert re.findall(r"\((.*?)\)", capsys.readouterr().out) == [
        "1 of 4, about 01:30 left",
        "2 of 4, about 01:00 left",
        "3 of 4, about 00:30 left",
        "4 of 4, about 00:00 left",
    ]


def test_the_checkpoint_of_a_job_that_was_killed_right_after_its_record_goes(folder):
    job = Job("tiny", "count", "", 0, tiny_jobs.count)
    write_atomically(checkpoint_path(job), b"")
    save_result(job.name, {}, seeds=[0], command="python c")
    run_jobs([job], two_processes)
    assert tree(folder) == {"tiny/count_0.json"}


def test_no_processes_are_refused(folder):
    with pytest.raises(ValueError, match="processes: wanted at least 1, got 0"):
        next(in_processes([], processes=0, device="cpu"))


def test_stored_seeds_are_those_of_one_model(folder):
    assert stored_seeds("tiny", "head") == []
    for name in ("head_10", "head_2", "head_curriculum_0", "ahead_1", "head_x"):
        save_result(f"tiny/{name}", {}, seeds=[0], command="python c")
    assert stored_seeds("tiny", "head") == [2, 10]
    assert stored_seeds("tiny", "head_curriculum") == [0]
    assert stored_seeds("tiny", "head", "curriculum") == [0]


def test_how_far_a_job_is(folder):
    job = Job("tiny", "count", "", 0, tiny_jobs.count)
    assert state(job) == "waiting"
    write_atomically(checkpoint_path(job), b"")
    assert state(job) == "begun"
    save_result(job.name, {}, seeds=[0], command="python c")
    assert state(job) == "done"


# The cluster --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A Dask scheduler and two workers, each a process that nobody starts again; address and folder of results."""
    distributed = pytest.importorskip("distributed")
    folder = tmp_path_factory.mktemp("cluster")
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parent),
        "OMP_NUM_THREADS": "1",
        "STN_RESULTS": str(folder / "results"),
    }
    with distributed.LocalCluster(n_workers=0, processes=True, host="127.0.0.1", dashboard_address=None) as scheduler:
        options = f"{scheduler.scheduler_address} --no-nanny --nthreads 1 --no-dashboard".split()
        command = [sys.executable, "-m", "distributed.cli.dask_worker", *options, "--local-directory", str(folder)]
        workers = [subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) for _ in "ab"]
        scheduler.wait_for_workers(2, timeout=300)
        yield scheduler.scheduler_address, folder / "results"
        for worker in workers:
            worker.kill()
            worker.wait()


def test_a_cluster_of_which_a_worker_is_killed(cluster, monkeypatch, capfd):
    address, folder = cluster
    monkeypatch.setenv("STN_RESULTS", str(folder))
    way = partial(on_cluster, address=address, device="cpu")
    killed, alone = Job("tiny", "killed", "", 1, tiny_jobs.train), Job("tiny", "alone", "R", 1, tiny_jobs.train)
    failing = Job("tiny", "failing", "", 0, tiny_jobs.fail)
    with pytest.raises(RuntimeError) as error:
        run_jobs([killed, failing, alone], way)
    assert str(error.value).startswith("not done: tiny/failing_0 (see its message above)")
    out, err = capfd.readouterr()
    assert "ZeroDivisionError: a job that fails" in err and "in fail" in err
    assert out.count("begun: tiny/killed_1") == 2  # first on the worker that was killed, then on the other one
    one, other = load_result("tiny/killed_1"), load_result("tiny/alone_R_1")
    assert other["figures"].pop("first watched") == 0
    assert one["figures"].pop("first watched") == tiny_jobs.KILLED_AFTER + 1  # it went on from its checkpoint
    assert one["figures"] == other["figures"] and one["command"].endswith("run tiny --models killed --seeds 1")
    assert tree(folder) == {"tiny/killed_1.json", "tiny/alone_R_1.json", "checkpoints/tiny/failing_0.lock"}

    run_jobs([killed, alone], way)
    assert "2 jobs, 2 done" in capfd.readouterr().out


def test_what_a_worker_says_of_missing_digits_is_said_without_a_traceback(capsys):
    job = Job("tiny", "blind", "", 0, tiny_jobs.find_no_digits)
    error = DataError("MNIST cannot be had: this is the way out")
    task = SimpleNamespace(status="error", cancelled=lambda: False, exception=lambda: error, traceback=lambda: None)
    assert _ending(job, task) == Event(job, "not done", "see its message above")
    assert capsys.readouterr().err == "MNIST cannot be had: this is the way out\n"


def test_workers_that_are_not_fit_are_named_before_anything_begins(cluster, monkeypatch, tmp_path):
    address, folder = cluster
    job = Job("tiny", "count", "", 0, tiny_jobs.count)
    monkeypatch.setenv("STN_RESULTS", str(tmp_path))
    with pytest.raises(RuntimeError, match=f"tcp://.*keeps its results in {folder}, .*STN_RESULTS={tmp_path}"):
        run_jobs([job], partial(on_cluster, address=address))
    assert not list(tmp_path.iterdir()) and not (folder / "count.txt").exists()


def test_what_makes_a_worker_unfit(folder):
    worker = SimpleNamespace(state=SimpleNamespace(nthreads=1))
    assert _unfit("cpu", folder.resolve(), worker) == "" == _unfit(None, folder.resolve(), worker)
    assert "device 'abacus' is not to be had here" in _unfit("abacus", folder.resolve(), worker)
    assert "keeps its results in" in _unfit("cpu", folder.resolve() / "elsewhere", worker)
    worker.state.nthreads = 4
    assert "has 4 threads; start it with --nthreads 1" in _unfit("cpu", folder.resolve(), worker)


def test_an_address_where_nobody_answers(folder, capsys):
    pytest.importorskip("distributed")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens there, and nobody else gets the port
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        began = time.monotonic()
        code, _, err = asked(capsys, "run", "attention", "--scheduler", address)
    assert code == 1 and f"--scheduler: nobody answers at {address}" in err and "Traceback" not in err
    assert time.monotonic() - began < 30 and tree(folder) == set()


def test_a_cluster_without_the_package(folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "distributed", None)
    code, _, err = asked(capsys, "run", "attention", "--scheduler", "tcp://127.0.0.1:8786")
    assert code == 1 and err == "--scheduler needs the package distributed: pip install distributed "


# The command line ---------------------------------------------------------------------------------------------


def asked(capsys, *arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error, spaces as they come from one line."""
    with pytest.raises(SystemExit) as end:
        command_line.main(list(arguments))
    out, err = (re.sub(r"\s+", " ", text) for text in capsys.readouterr())
    return end.value.code, out, err


TINY = Experiment(
    name="tiny",
    words="jobs of a second",
    cells=(("cnn", "R"), ("cnn", "TC"), ("stn", "TC")),
    seeds=(0, 1),
    measure=tiny_jobs.train,
    table=lambda: "a tiny table",
)


def test_help_names_what_there_is():
    asked_for = [sys.executable, "-m", "stn_helpers.experiments", "--help"]
    done = subprocess.run(asked_for, capture_output=True, text=True, check=True)
    assert all(word in done.stdout for word in ("attention", "ablations", "list", "run", "report", "STN_RESULTS"))


@pytest.mark.parametrize("command", ["list", "report"])
def test_a_reader_that_stops_early_breaks_nothing(command):
    asked_for = [sys.executable, "-m", "stn_helpers.experiments", command]
    its_end, ours = os.pipe()
    os.close(its_end)  # as `head` does once it has seen enough
    done = subprocess.run(asked_for, stdout=ours, stderr=subprocess.PIPE, text=True)
    os.close(ours)
    assert (done.returncode, done.stderr) == (0, "")


def test_help_of_run_names_options_and_experiments(capsys):
    code, out, _ = asked(capsys, "run", "--help")
    assert code == 0 and all(f"--{word}" in out for word in ("models", "data", "seeds", "processes", "device"))
    assert all(f"{one.name} {one.words}" in out for one in command_line.EXPERIMENTS)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("", "arguments are required: command"),
        ("attention", "invalid choice: 'attention'"),
        ("run atention", "no experiment 'atention'; there are: attention, ablations"),
        ("list atention", "no experiment 'atention'"),
        ("run attention --models foo affine", "--models: there is no foo; there is: attention, affine, ceiling, ceiling_half_pixel, ceiling_one_pixel"),
        ("run attention --models ours", "--models: there is no ours"),
        ("run attention --data R", "--data: there is no R; there is: one kind only"),
        ("run attention --seeds -1", "--seeds: wanted a whole number from 0 to 4294967295, got '-1'"),
        ("run attention --seeds one", "--seeds: wanted a whole number from 0 to 4294967295, got 'one'"),
        ("run --seeds 0 1.5", "--seeds: wanted a whole number from 0 to 4294967295, got '1.5'"),
        ("run --seeds 20260101123456", "--seeds: wanted a whole number from 0 to 4294967295"),
        ("run --scheduler=", "--scheduler: wanted an address such as tcp://10.0.0.1:8786, got nothing"),
        ("run ablations --seeds", "--seeds: expected at least one argument"),
        ("run attention --processes 0", "--processes: wanted a whole number from 1 up, got '0'"),
        ("run attention --device abacus", "device 'abacus' is not to be had here; usable: "),
        ("run --processes 2 --scheduler tcp://there:8786", "not allowed with argument"),
        ("report --seeds", "unrecognized arguments: --seeds"),
    ],
)
def test_bad_arguments_are_named(capsys, folder, arguments, words):
    code, _, err = asked(capsys, *arguments.split())
    assert code == 2 and words in err and not folder.exists()


def test_the_jobs_of_a_command_line(monkeypatch):
    given = []
    monkeypatch.setattr(command_line, "run_jobs", lambda *arguments: given.append(arguments))
    command_line.main("run attention --models ceiling affine --seeds 4 2 --processes 2 --device cpu".split())
    command_line.main(["run", "ablations", "--device", "cpu"])
    command_line.main(["run", "--scheduler", "tcp://there:8786"])
    (some, two), (all_variants, one), (everything, cluster) = given
    assert [job.name for job in some] == [f"attention/{m}_{s}" for s in (2, 4) for m in ("affine", "ceiling")]
    assert (two.func, two.keywords) == (in_processes, {"processes": 2, "device": "cpu"})
    assert [job.name for job in all_variants] == [f"ablations/{v}_{s}" for s in range(5) for v in ablations.VARIANTS]
    assert one.keywords == {"processes": 1, "device": "cpu"}
    assert sorted(job.name for job in everything) == sorted(
        job.name for experiment in command_line.EXPERIMENTS for job in experiment.jobs()
    )
    assert [job.seed for job in everything] == sorted(job.seed for job in everything)
    assert (cluster.func, cluster.keywords) == (on_cluster, {"address": "tcp://there:8786", "device": None})


def test_models_and_data_take_cells_of_the_table():
    def names(*arguments):
        return [job.name for job in command_line.choose_jobs((TINY, attention.EXPERIMENT), *arguments)]

    assert names(["cnn"], None, [3]) == ["tiny/cnn_R_3", "tiny/cnn_TC_3"]
    assert names(["cnn", "ceiling"], None, [3]) == ["tiny/cnn_R_3", "tiny/cnn_TC_3", "attention/ceiling_3"]
    assert names(None, ["TC"]) == ["tiny/cnn_TC_0", "tiny/stn_TC_0", "tiny/cnn_TC_1", "tiny/stn_TC_1"]
    assert names(["stn"], ["TC", "R"], [0]) == ["tiny/stn_TC_0"]
    with pytest.raises(ValueError, match="no cell of a table has such a model on such data"):
        names(["stn"], ["R"])
    with pytest.raises(ValueError, match="--data: there is no P, E; there is: R, TC$"):
        names(None, ["R", "P", "E"])


def test_every_job_has_a_name_of_its_own():
    names = [job.name for experiment in command_line.EXPERIMENTS for job in experiment.jobs()]
    assert len(set(names)) == len(names)


def test_the_list_says_how_far_every_job_is(folder, monkeypatch, capsys):
    monkeypatch.setattr(command_line, "EXPERIMENTS", (TINY, attention.EXPERIMENT))
    save_result("tiny/cnn_R_0", {}, seeds=[0], command="python c")
    save_result("tiny/stn_TC_1", {}, seeds=[1], command="python c")
    write_atomically(checkpoint_path(Job("tiny", "cnn", "TC", 0, tiny_jobs.train)), b"")
    command_line.main(["list", "tiny"])
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        "tiny: jobs of a second".split(),
        "2 of 6 done, 1 begun".split(),
        "model data seed 0 seed 1".split(),
        "cnn R done waiting".split(),
        "cnn TC begun waiting".split(),
        "stn TC waiting done".split(),
    ]
    command_line.main(["list"])
    out = capsys.readouterr().out
    assert "2 of 6 done, 1 begun" in out and "0 of 15 done, 0 begun" in out


@pytest.mark.parametrize(
    ("raised", "code", "words"),
    [(RuntimeError("not done: a/b_0"), 1, "not done: a/b_0"), (KeyboardInterrupt(), 130, "stopped; the same command goes on")],
)
def test_how_a_run_ends(monkeypatch, capsys, raised, code, words):
    def run(*arguments):
        raise raised

    monkeypatch.setattr(command_line, "run_jobs", run)
    status, _, err = asked(capsys, "run", "attention", "--device", "cpu")
    assert status == code and words in err


def test_a_run_on_a_cluster_that_is_stopped_says_what_its_workers_do(monkeypatch, capsys):
    def run(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(command_line, "run_jobs", run)
    status, _, err = asked(capsys, "run", "attention", "--scheduler", "tcp://there:8786")
    assert status == 130 and "stopped; the workers finish what they have begun; the same command goes on" in err


# The attention benchmark --------------------------------------------------------------------------------------


def test_published_figures():
    """Cells as printed, and the sums, in ten thousandths, over the rows and columns of the printed tables."""
    assert [round(pixels, 1) for pixels in ECCENTRICITIES] == [4.4, 8.9, 13.3, 17.8, 22.2, 26.7, 31.1, 35.6, 40.0]
    affine, ours = PUBLISHED["affine"], PUBLISHED["attention"]
    assert (affine[0.7][0], affine[0.5][4], affine[0.3][8]) == (0.9715, 0.9509, 0.6892)
    assert (ours[0.7][6], ours[0.5][3], ours[0.3][8]) == (0.9147, 0.9334, 0.6111)
    rows = {"affine": [86572, 85455, 66502], "attention": [84236, 83242, 60572]}
    columns = {
        "affine": [26919, 26808, 26622, 26616, 26499, 26296, 26477, 26409, 25883],
        "attention": [26042, 25693, 25425, 25437, 25353, 25114, 24873, 25282, 24831],
    }
    for model, table in PUBLISHED.items():
        cells = 10_000 * torch.tensor([table[contrast] for contrast in CONTRASTS], dtype=torch.float64)
        torch.testing.assert_close(cells.sum(1).tolist(), [float(n) for n in rows[model]])
        torch.testing.assert_close(cells.sum(0).tolist(), [float(n) for n in columns[model]])


def test_a_cell_is_seeded_and_leaves_the_random_numbers_alone():
    digits = fake_digits(12).images
    before = torch.get_rng_state()
    one, again, other = (field_cell(digits, 0.5, 26.7, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not torch.equal(one.images, other.images) and not torch.equal(one.shift, other.shift)
    assert torch.equal(one.contrast, torch.full((12,), 0.5))
    # Truncated to whole pixels, each component loses less than one.
    assert ((one.shift.double().norm(dim=1) - 26.7).abs() < 2**0.5).all()


@pytest.mark.parametrize("side", [28, 20])
def test_the_true_crop_is_the_pixels_of_the_digits_place(side):
    field = random_field(fake_digits(6).images[..., :side, :side])
    corner = (128 - side) // 2
    for image, crop, (x, y) in zip(field.images, true_crop(field, side), field.shift.tolist(), strict=True):
        there = image[:, corner + y : corner + y + side, corner + x : corner + x + side]
        torch.testing.assert_close(crop, there, rtol=0, atol=1e-5)


def test_a_window_that_wavers_lies_beside_the_true_place():
    field = random_field(fake_digits(200).images)
    torch.manual_seed(3)
    wavering = true_crop(field, waver=1.5)
    torch.manual_seed(3)
    move = 1.5 * torch.randn(200, 2)  # pixels
    torch.testing.assert_close(wavering, true_crop(field._replace(shift=field.shift + move)), rtol=0, atol=1e-4)
    assert (wavering - true_crop(field)).abs().mean() > 0.01


def test_off_target_is_the_distance_in_pixels():
    field = random_field(fake_digits(5).images)
    theta = field_theta(field.shift)
    torch.testing.assert_close(off_target(Attention(), theta, field), torch.zeros(5), rtol=0, atol=1e-5)
    theta[:, 1:] += 2 * torch.tensor([3.0, -4.0]) / 128  # three pixels right, four up
    torch.testing.assert_close(off_target(Attention(), theta, field), torch.full((5,), 5.0), rtol=0, atol=1e-4)
    scale, tx, ty = theta.T
    turned = torch.stack([0.8 * scale, -0.6 * scale, tx, 0.6 * scale, 0.8 * scale, ty], dim=1)
    torch.testing.assert_close(off_target(Affine(), turned, field), torch.full((5,), 5.0), rtol=0, atol=1e-4)


class Oracle(torch.nn.Module):
    """Knows where the digits of a field are: what a perfect localization network would say, some pixels off."""

    def __init__(self, pixels: float) -> None:
        super().__init__()
        self.pixels, self.weight, self.fields = pixels, torch.nn.Parameter(torch.zeros(())), []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        theta = field_theta(self.fields.pop(0).shift)
        theta[:, 1] += self.pixels / 64
        return theta


class Seven(torch.nn.Module):
    """Says seven, whatever it sees."""

    def forward(self, window: torch.Tensor) -> torch.Tensor:
        return F.one_hot(torch.full((len(window),), 7), 10).float()


def test_a_cell_counts_what_is_right_and_what_is_missed(monkeypatch):
    net = field_stn(seed=0)
    net.transformer.localization = oracle = Oracle(pixels=6.0)
    net.classifier = Seven()

    def known_field(*arguments, **kwargs):
        oracle.fields.append(field_cell(*arguments, **kwargs))
        return oracle.fields[-1]

    monkeypatch.setattr(attention, "field_cell", known_field)
    digits = fake_digits(130)
    cell = measure_cell(net.eval(), digits, 0.7, 40.0, seed=0)
    assert cell == {
        "contrast": 0.7,
        "eccentricity": 40.0,
        "accuracy": pytest.approx(float((digits.labels == 7).double().mean())),
        "error_px": pytest.approx(6.0, abs=1e-4),
        "missed": 1.0,
    }


@pytest.fixture
def short(monkeypatch):
    """The benchmark with 32 digits to train on and 12 to test on, two steps long."""
    digits = DigitData(fake_digits(32), fake_digits(12, seed=1), "mnist")
    monkeypatch.setattr(attention, "load_digits", lambda source: digits)
    monkeypatch.setattr(attention, "RECIPES", {m: Recipe(epochs=1, batch_size=16, clip=1.0) for m in attention.MODELS})
    monkeypatch.setattr(attention, "ECCENTRICITIES", ECCENTRICITIES[::4])
    return digits


@pytest.mark.parametrize("model", attention.MODELS)
def test_a_job_of_the_benchmark(folder, short, model):
    job = Job("attention", model, "", 0, attention.measure)
    figures = attention.measure(job, "cpu")
    save_result(job.name, figures, seeds=[0], command="python c")
    assert figures["steps"] == 2 and len(figures["losses"]) == 2 and figures["seconds"] > 0
    grid = grid_of(model, [0])
    assert grid.shape == (1, 3, 3) and ((grid >= 0) & (grid <= 1)).all()
    places = [(cell["contrast"], cell["eccentricity"]) for cell in figures["cells"]]
    assert places == [(contrast, pixels) for contrast in CONTRASTS for pixels in ECCENTRICITIES[::4]]
    assert checkpoint_path(job).exists()  # the runner removes it when the record is written

    again = attention.measure(job, "cpu")  # as if killed in the last cell: nothing is trained anew
    assert again == figures

    if model in attention.CEILINGS:
        assert "missed" not in figures["cells"][0] and figures["parameters"] == 431_080
        return
    net = field_stn({"attention": Attention(), "affine": Affine()}[model], seed=5)
    load_weights(f"attention/{model}_0", net)
    cell = measure_cell(net.eval(), short.test, 0.3, 40.0, seed=202)
    assert cell == pytest.approx(figures["cells"][-1], rel=1e-3)  # the stored weights are rounded to half precision


def test_grid_of_stacks_the_seeds(folder):
    cells = [
        {"contrast": c, "eccentricity": e, "accuracy": c + e / 1000, "missed": c - e / 1000}
        for c in CONTRASTS
        for e in ECCENTRICITIES
    ]
    for seed in (0, 4):
        worse = [cell | {"accuracy": cell["accuracy"] - seed / 100} for cell in cells]
        save_result(f"attention/affine_{seed}", {"cells": worse}, seeds=[seed], command="python c")
    grid = grid_of("affine", [0, 4])
    expected = torch.tensor(CONTRASTS)[:, None] + torch.tensor(ECCENTRICITIES) / 1000
    torch.testing.assert_close(grid, torch.stack([expected, expected - 0.04]))
    missed = torch.tensor(CONTRASTS)[:, None] - torch.tensor(ECCENTRICITIES) / 1000
    torch.testing.assert_close(grid_of("affine", [4], "missed")[0], missed)
    with pytest.raises(FileNotFoundError, match=r"affine_1\.json"):
        grid_of("affine", [0, 1])


# The ablations ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ablations.VARIANTS)
def test_every_variant_starts_in_a_window_of_its_scale_and_sends_gradients_back(name):
    variant = ablations.VARIANTS[name]
    net = ablations.build(variant, seed=0)
    images = random_field(fake_digits(2).images).images
    net(images).logsumexp(1).sum().backward()
    net.eval()
    with torch.no_grad():
        theta = net.transformer.localization(images)
    scale = {"scale_1": 1.0, "atn": 0.2, "author": 0.2}.get(name, 28 / 128)
    torch.testing.assert_close(theta[:, 0], torch.full((2,), scale))
    assert isinstance(net, SearchingSTN) == (variant.looks is not None)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.classifier.parameters())
    last = list(net.transformer.localization.parameters())[-1]  # the bias of the layer that ends in θ
    assert last.shape == (3,) and last.grad.abs().max() > 0


def test_the_curriculum_moves_outwards_in_half_the_steps(monkeypatch):
    monkeypatch.setattr(ablations, "STEPS", 40)
    digits = fake_digits(1).images
    spreads = []
    monkeypatch.setattr(
        ablations, "random_field", lambda images, contrast, spread: spreads.append(spread) or random_field(images)
    )
    fields = ablations.Fields(curriculum=True)
    for _ in range(40):
        fields(digits)
    assert spreads[:20] == pytest.approx([2.0 * step for step in range(1, 21)]) and set(spreads[20:]) == {40.0}
    ablations.Fields(curriculum=False)(digits)
    assert spreads[-1] == 40.0


def test_a_job_of_the_ablations(folder, monkeypatch):
    train = fake_digits(64)
    monkeypatch.setattr(ablations, "load_digits", lambda source: DigitData(train, None, "mnist"))
    monkeypatch.setattr(ablations, "split_validation", lambda digits, size: (digits, fake_digits(40, seed=1)))
    monkeypatch.setattr(ablations, "STEPS", 3)
    job = Job("ablations", "ours", "", 3, ablations.measure)
    before = ablations.build(ablations.VARIANTS["ours"], seed=3)
    figures = ablations.measure(job, "cpu")
    save_result(job.name, figures, seeds=[3], command="python c")
    assert len(figures["losses"]) == 3 and figures["steps"] == [0, 3]
    assert len(figures["accuracy_by_step"]) == 2 and len(figures["window"]) == 2
    assert figures["accuracy"] == pytest.approx(figures["accuracy_by_step"][-1])  # here both of the same forty
    assert figures["parameters"] == sum(p.numel() for p in before.parameters())
    probes = field_cell(fake_digits(40, seed=1).images, 0.7, 40.0, seed=0)
    assert figures["probes"] == probes.shift[:2].tolist()
    with torch.no_grad():
        first = before.eval().transformer.localization(probes.images[:2])
    torch.testing.assert_close(torch.tensor(figures["window"][0]), first, rtol=0, atol=1e-4)


def test_an_epoch_of_sgd_is_plain_gradient_descent():
    """One batch of 100 digits near the middle: every weight moves by a hundredth of its gradient."""
    train, watched = fake_digits(100), []
    variant = ablations.VARIANTS["author"]
    net, other = ablations.build(variant, seed=1), ablations.build(variant, seed=1)
    history = ablations.sgd_epoch(net, train, 5, "cpu", lambda step, model: watched.append(step))
    assert history.steps == 1 and history.seconds > 0 and watched == [0]

    torch.manual_seed(5)
    order = torch.randperm(100)
    field = random_field(train.images[order], (0.7, 0.7), spread=40 / 9)
    loss = F.cross_entropy(other(field.images), train.labels[order])
    loss.backward()
    assert history.losses.tolist() == pytest.approx([loss.item()], rel=1e-5)
    for moved, start in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(moved, start - 0.01 * start.grad, rtol=1e-5, atol=1e-7)


# The tables ---------------------------------------------------------------------------------------------------


def test_columns_end_under_each_other():
    assert columns([("net", "error"), ("a", "1.5"), ("longer", "12.5")]) == "net     error\na         1.5\nlonger   12.5"


def test_spread_is_mean_and_standard_deviation():
    assert spread([2.0]) == "2.00"
    values = torch.tensor([2.0, 4.5, 4.0], dtype=torch.float64)
    assert spread(values.tolist()) == f"{values.mean():.2f} ± {values.std():.2f}"


# The report ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("experiment", command_line.EXPERIMENTS, ids=lambda experiment: experiment.name)
def test_the_report_of_nothing(folder, capsys, experiment):
    command_line.main(["report", experiment.name])
    out = capsys.readouterr().out
    assert out.startswith(experiment.name) and "nothing measured yet" in out


def save_grid(model: str, seed: int, accuracy: dict[float, float]) -> None:
    """A record of the benchmark, with one accuracy at every eccentricity of a contrast."""
    cells = [{"contrast": c, "eccentricity": e, "accuracy": accuracy[c]} for c in CONTRASTS for e in ECCENTRICITIES]
    save_result(f"attention/{model}_{seed}", {"cells": cells}, seeds=[seed], command="python c")


def test_the_report_of_the_benchmark(folder):
    save_grid("attention", 0, {0.7: 0.9900, 0.5: 0.93, 0.3: 0.5})
    save_grid("attention", 2, {0.7: 0.9940, 0.5: 0.93, 0.3: 0.5})
    lines = attention.table_of("attention").splitlines()
    assert "seeds 0, 2 (ceiling: not measured)" in lines[0]
    # The standard deviation of two numbers 0.4 apart is 0.4/√2; published: 96.06.
    assert lines[2].split() == "0.7 4.4 99.20 ± 0.28 - 96.06 +3.14".split()
    assert lines[-2].split() == "0.3 40.0 50.00 ± 0.00 - 61.11 -11.11".split()
    # At 0.5 six of the nine published figures are below 0.93.
    assert lines[-1] == "above the published figure in 15 of 27 cells"
    assert attention.table_of("affine") == "attention benchmark, affine: nothing measured yet"

    save_grid("ceiling", 0, {0.7: 0.9910, 0.5: 0.99, 0.3: 0.97})
    save_grid("ceiling", 1, {0.7: 0.9930, 0.5: 0.99, 0.3: 0.97})
    save_grid("affine", 1, {0.7: 0.97, 0.5: 0.97, 0.3: 0.97})
    lines = attention.table_of("affine").splitlines()
    assert "affine, seeds 1 (ceiling: 0, 1)" in lines[0] and len(lines) == 2 + 27 + 1
    assert lines[2].split() == "0.7 4.4 97.00 99.20 97.15 -0.15".split()
    assert len({len(line) for line in lines[1:-1]}) == 1  # columns stand under their titles


def test_the_report_of_the_ablations(folder, capsys):
    for seed, (accuracy, seconds) in enumerate([(0.9, 10.0), (0.5, 12.0), (0.11, 90.0), (0.96, 20.0)]):
        figures = {"accuracy": accuracy, "seconds": seconds}
        save_result(f"ablations/ours_{seed}", figures, seeds=[seed], command="python c")
    save_result("ablations/linear_head_curriculum_0", {"accuracy": 0.1, "seconds": 3.0}, seeds=[0], command="python c")
    command_line.main(["report", "ablations"])
    out = capsys.readouterr().out
    rows = [line.split() for line in out[out.index("variant") :].splitlines()[1:]]
    assert rows == [["ours", "2", "of", "4", "70.00", "16"], ["linear_head_curriculum", "0", "of", "1", "10.00", "3"]]


def test_a_damaged_record_is_named_in_the_report(folder, capsys):
    (folder / "ablations").mkdir(parents=True)
    (folder / "ablations" / "ours_0.json").write_text("{")
    code, _, err = asked(capsys, "report", "ablations")
    assert code == 1 and re.search(r"ours_0\.json is damaged .*or delete it and measure anew", err)


def test_a_record_without_its_figures_is_reported_with_its_folder(folder, capsys):
    save_result("ablations/ours_0", {}, seeds=[0], command="python c")
    code, _, err = asked(capsys, "report", "ablations")
    assert code == 1 and re.search(r"record in .*/ablations is not of this version \(KeyError\('accuracy'\)\); delete", err)
