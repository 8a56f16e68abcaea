"""The command line of the long measurements."""

from __future__ import annotations

import argparse

from stn_helpers.experiments import ablations, attention
from stn_helpers.experiments.jobs import run_jobs
from stn_helpers.training import choose_device


def main(arguments: list[str] | None = None) -> None:
    """Run what the arguments name; ``--help`` says what there is."""
    parser = argparse.ArgumentParser(
        prog="python -m stn_helpers.experiments",
        description="Long measurements. What is done is skipped; what was killed goes on where it was.",
    )
    experiments = parser.add_subparsers(dest="experiment", required=True)
    for name, module, models, seeds, words in (
        ("attention", attention, attention.MODELS, [0, 1, 2], "the attention benchmark, 3 contrasts × 9 eccentricities"),
        ("ablations", ablations, tuple(ablations.VARIANTS), [0, 1, 2, 3, 4], "what makes the attention transformer learn"),
    ):
        one = experiments.add_parser(name, help=words, description=f"{words}; one record a model and seed in results/")
        one.add_argument("--models", nargs="+", choices=models, default=list(models), help="default: all")
        one.add_argument("--seeds", nargs="+", type=int, default=seeds, help=f"default: {' '.join(map(str, seeds))}")
        one.add_argument("--processes", type=int, default=1, help="jobs at a time; they share the cores (default: 1)")
        one.add_argument("--device", help="cpu, cuda or mps; default: the best there is")
        one.set_defaults(module=module)
    chosen = parser.parse_args(arguments)

    device = choose_device(chosen.device).type
    run_jobs(chosen.module.jobs(chosen.models, chosen.seeds), chosen.processes, device)


if __name__ == "__main__":
    main()
