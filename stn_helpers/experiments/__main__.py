"""The command line of the long measurements."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from stn_helpers.experiments import ablations, attention
from stn_helpers.experiments.jobs import run_jobs
from stn_helpers.experiments.report import report
from stn_helpers.training import choose_device


def main(arguments: list[str] | None = None) -> None:
    """Do what the arguments name; ``--help`` says what there is."""
    parser = argparse.ArgumentParser(
        prog="python -m stn_helpers.experiments",
        description="Long measurements. What is done is skipped; what was killed goes on where it was.",
        epilog="Records lie in results/, or in the folder that the environment variable STN_RESULTS names.",
    )
    experiments = parser.add_subparsers(dest="experiment", required=True)
    for name, module, models, seeds, words in (
        ("attention", attention, attention.MODELS, range(3), "the attention benchmark, 3 contrasts × 9 eccentricities"),
        ("ablations", ablations, tuple(ablations.VARIANTS), range(5), "what makes the attention transformer learn"),
    ):
        one = experiments.add_parser(name, help=words, description=f"{words}; one record a model and seed in results/")
        one.add_argument("--models", nargs="+", choices=models, default=list(models), help="default: all")
        numbers = " ".join(map(str, seeds))
        one.add_argument("--seeds", nargs="+", type=_at_least(0), default=list(seeds), help=f"default: {numbers}")
        one.add_argument(
            "--processes", type=_at_least(1), default=1, help="jobs at a time; they share the cores (default: 1)"
        )
        one.add_argument("--device", help="cpu, cuda or mps; default: the best there is")
        one.set_defaults(module=module)
    experiments.add_parser("report", help="the tables, from the records that are there")
    chosen = parser.parse_args(arguments)

    if chosen.experiment == "report":
        print(report())
        return
    try:
        device = choose_device(chosen.device).type
    except ValueError as error:
        parser.error(str(error))
    try:
        run_jobs(chosen.module.jobs(chosen.models, chosen.seeds), chosen.processes, device)
    except RuntimeError as error:
        parser.exit(1, f"{error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "stopped; the same command goes on from here\n")


def _at_least(lowest: int) -> Callable[[str], int]:
    """A type for argparse: whole numbers from ``lowest`` up."""

    def number(text: str) -> int:
        value = int(text) if text.removeprefix("-").isdecimal() else lowest - 1
        if value < lowest:
            raise argparse.ArgumentTypeError(f"wanted a whole number from {lowest} up, got {text!r}")
        return value

    return number


if __name__ == "__main__":
    main()
