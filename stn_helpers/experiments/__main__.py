"""The command line of the long measurements."""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence
from functools import partial

from stn_helpers.experiments import (
    ablations,
    addition,
    attention,
    colocalization,
    distorted,
    parts,
    sequences,
)
from stn_helpers.experiments.cluster import on_cluster
from stn_helpers.experiments.jobs import Experiment, Job, state
from stn_helpers.experiments.runs import in_processes, run_jobs
from stn_helpers.experiments.tables import columns
from stn_helpers.results import results_folder
from stn_helpers.training import SEEDS, choose_device

EXPERIMENTS = tuple(
    module.EXPERIMENT for module in (attention, ablations, distorted, addition, sequences, parts, colocalization)
)


def main(arguments: list[str] | None = None) -> None:
    """Do what the arguments say; ``--help`` says what there is."""
    parser = command_line()
    chosen = parser.parse_args(arguments)
    experiments = chosen.experiments or EXPERIMENTS
    try:
        if chosen.command == "list":
            show("\n\n".join(map(overview, experiments)))
        elif chosen.command == "report":
            show("\n\n".join(map(report, experiments)))
        else:
            run(parser, experiments, chosen)
    except (RuntimeError, ValueError) as error:
        parser.exit(1, f"{error}\n")
    except KeyboardInterrupt:
        on_workers = "; the workers finish what they have begun" if getattr(chosen, "scheduler", None) else ""
        parser.exit(130, f"stopped{on_workers}; the same command goes on from here\n")


def show(text: str) -> None:
    """Print, be it to a reader that stops early, as `head` does."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # where Python's own flush at the end goes


def report(experiment: Experiment) -> str:
    """The experiment's tables.

    Raises:
        ValueError: a record is damaged, or of another version.
    """
    try:
        return experiment.table()
    except (KeyError, TypeError) as error:
        folder = results_folder() / experiment.name
        raise ValueError(f"a record in {folder} is not of this version ({error!r}); delete it and measure anew") from error


def run(parser: argparse.ArgumentParser, experiments: Sequence[Experiment], chosen: argparse.Namespace) -> None:
    """Do the jobs that were asked for.

    Raises:
        RuntimeError: some were not done.
    """
    try:
        jobs = choose_jobs(experiments, chosen.models, chosen.data, chosen.seeds)
        if chosen.scheduler:
            way = partial(on_cluster, address=chosen.scheduler, device=chosen.device)
        else:
            way = partial(in_processes, processes=chosen.processes, device=choose_device(chosen.device).type)
    except ValueError as error:
        parser.error(str(error))
    run_jobs(jobs, way)


def command_line() -> argparse.ArgumentParser:
    """What can be asked for, with help."""
    layout = {
        "formatter_class": argparse.RawDescriptionHelpFormatter,
        "epilog": "experiments:\n" + "\n".join(f"  {one.name:16}{one.words}" for one in EXPERIMENTS),
    }
    parser = argparse.ArgumentParser(
        prog="python -m stn_helpers.experiments",
        description="Long measurements, cut into jobs. What is done is skipped; a training that was killed goes on where it was.\n"
        "Records lie in results/, or in the folder that the environment variable STN_RESULTS names.",
        **layout,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="every job: done, begun or waiting", **layout)
    run = commands.add_parser("run", help="do what is not done yet", **layout)
    commands.add_parser("report", help="the tables, from the records that are there", **layout)
    for command in commands.choices.values():
        words = "see below; default: all"
        command.add_argument("experiments", nargs="*", type=_experiment, metavar="EXPERIMENT", help=words)
    run.add_argument("--models", nargs="+", help="these models alone; `list` names them")
    run.add_argument("--data", nargs="+", help="these data alone; `list` names them")
    run.add_argument("--seeds", nargs="+", type=_seed, help="default: those that `list` names")
    where = run.add_mutually_exclusive_group()
    words = "jobs at a time; they share the cores (default: 1)"
    where.add_argument("--processes", type=_count, default=1, help=words)
    words = "of a Dask scheduler: its workers, all of one kind, do the jobs, one at a time each"
    where.add_argument("--scheduler", type=_address, metavar="ADDRESS", help=words)
    run.add_argument("--device", help="cpu, cuda or mps; default: the best there is")
    return parser


def choose_jobs(
    experiments: Sequence[Experiment],
    models: list[str] | None = None,
    data: list[str] | None = None,
    seeds: list[int] | None = None,
) -> list[Job]:
    """The jobs of some experiments, lowest seed first: every table is filled once before any is again.

    Args:
        experiments: take their jobs ...
        models: ... with these models, ...
        data: ... these data ...
        seeds: ... and these seeds; None: with all of them.

    Raises:
        ValueError: no job is left, or one of the values is none of any experiment's.
    """
    cells = [cell for experiment in experiments for cell in experiment.cells]
    for option, wanted, known in (
        ("--models", models, dict.fromkeys(model for model, _ in cells)),
        ("--data", data, dict.fromkeys(kind for _, kind in cells if kind)),
    ):
        if unknown := [value for value in wanted or () if value not in known]:
            there = ", ".join(known) or "one kind only"
            raise ValueError(f"{option}: there is no {', '.join(unknown)}; there is: {there}")
    jobs = [
        job
        for experiment in experiments
        for job in experiment.jobs(seeds)
        if (models is None or job.model in models) and (data is None or job.data in data)
    ]
    if not jobs:
        raise ValueError("--models, --data: no cell of a table has such a model on such data; see `list`")
    return sorted(jobs, key=lambda job: job.seed)


def overview(experiment: Experiment) -> str:
    """What an experiment is, how many of its jobs are done, and how far each of them is: one line a cell."""
    states = {(job.model, job.data, job.seed): state(job) for job in experiment.jobs()}
    count = Counter(states.values())
    title = f"{experiment.name}: {experiment.words}\n{count['done']} of {len(states)} done, {count['begun']} begun"
    rows = [("model", "data", *(f"seed {seed}" for seed in experiment.seeds))]
    for model, data in experiment.cells:
        rows.append((model, data or "-", *(states[model, data, seed] for seed in experiment.seeds)))
    return f"{title}\n{columns(rows)}"


def _experiment(name: str) -> Experiment:
    """A type for argparse: the experiment of this name."""
    for experiment in EXPERIMENTS:
        if experiment.name == name:
            return experiment
    raise argparse.ArgumentTypeError(f"no experiment {name!r}; there are: {', '.join(one.name for one in EXPERIMENTS)}")


def _seed(text: str) -> int:
    """A type for argparse: a seed as `stn_helpers.training.fit` takes it."""
    if not text.isdecimal() or int(text) >= SEEDS:
        raise argparse.ArgumentTypeError(f"wanted a whole number from 0 to {SEEDS - 1}, got {text!r}")
    return int(text)


def _count(text: str) -> int:
    """A type for argparse: a whole number above 0."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"wanted a whole number from 1 up, got {text!r}")
    return int(text)


def _address(text: str) -> str:
    """A type for argparse: where a scheduler answers."""
    if not text:  # the value of a variable that the shell does not know
        raise argparse.ArgumentTypeError("wanted an address such as tcp://10.0.0.1:8786, got nothing")
    return text


if __name__ == "__main__":
    main()
