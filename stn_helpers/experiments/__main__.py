"""The command line of the long measurements."""

from __future__ import annotations

import argparse

from stn_helpers.experiments import attention
from stn_helpers.experiments.jobs import run_jobs
from stn_helpers.training import choose_device


def main(arguments: list[str] | None = None) -> None:
    """Run what the arguments name; ``--help`` says what there is."""
    parser = argparse.ArgumentParser(
        prog="python -m stn_helpers.experiments",
        description="Long measurements. What is done is skipped; what was killed goes on where it was.",
    )
    experiments = parser.add_subparsers(dest="experiment", required=True)
    one = experiments.add_parser("attention", help="the attention benchmark, 3 contrasts × 9 eccentricities")
    one.add_argument("--models", nargs="+", choices=attention.MODELS, default=list(attention.MODELS))
    one.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: 0 1 2")
    one.add_argument("--processes", type=int, default=1, help="jobs at a time; they share the cores (default: 1)")
    one.add_argument("--device", help="cpu, cuda or mps; default: the best there is")
    chosen = parser.parse_args(arguments)

    device = choose_device(chosen.device).type
    run_jobs(attention.jobs(chosen.models, chosen.seeds), chosen.processes, device)


if __name__ == "__main__":
    main()
