"""Sphinx extension: where the figures come from, read off the records while the book is built.

On markdown pages the directive lists what an experiment has measured, or, with names of single records, one line for
each of these::

    ```{records} attention
    ```

    ```{records} mnist_stn benchmark_families
    ```
"""

from collections.abc import Iterable

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from stn_helpers.experiments.__main__ import EXPERIMENTS
from stn_helpers.experiments.jobs import Experiment, Job, stored_seeds
from stn_helpers.results import has_result, load_result

NOT_YET = "–"


def experiment_rows(experiment: Experiment) -> list[list[str]]:
    """Words for a table: a line of titles, then one for all cells with the same seeds, measured on the same device and day."""
    alike: dict[tuple[str, ...], dict[str, list[dict]]] = {}
    for model, data in experiment.cells:
        seeds = stored_seeds(experiment.name, model, data)
        jobs = [Job(experiment.name, model, data, seed, experiment.measure) for seed in seeds]
        records = [load_result(job.name) for job in jobs]
        alike.setdefault(_origin(records), {})[f"{model} {data}".strip()] = records
    rows = [["cells", "minutes each", "seeds", "device", "torch", "date"]]
    for origin, cells in alike.items():
        minutes = [record["figures"]["seconds"] / 60 for records in cells.values() for record in records]
        took = list(dict.fromkeys(f"{limit(minutes):.1f}" for limit in (min, max))) if minutes else [NOT_YET]
        words = ", ".join(cells) if len(alike) > 1 else f"all {len(cells)}"
        rows.append([words, " to ".join(took), *origin])
    return rows


def record_rows(names: list[str]) -> list[list[str]]:
    """Words for a table: a line of titles, then one for each record."""
    rows = [["record", "command", "seeds", "device", "torch", "date"]]
    for name in names:
        record = load_result(name)
        rows.append([name, f"`{record['command']}`", *_origin([record])])
    return rows


def _origin(records: list[dict]) -> tuple[str, ...]:
    """Seeds, device, version of torch, date of some records; dashes where there is none."""
    if not records:
        return (NOT_YET,) * 4
    return (
        ", ".join(str(seed) for record in records for seed in record["seeds"]),
        _all(record["device"] for record in records),
        _all(record["versions"]["torch"] for record in records),
        _all(record["date"] for record in records),
    )


def _all(words: Iterable[str]) -> str:
    """Each different word once, in order."""
    return ", ".join(sorted(set(words)))


class RecordsDirective(SphinxDirective):
    """The name of an experiment, or names of records."""

    required_arguments = 1
    optional_arguments = 20

    def run(self) -> list[nodes.Node]:
        experiments = {experiment.name: experiment for experiment in EXPERIMENTS}
        first = self.arguments[0]
        if first in experiments and len(self.arguments) == 1:
            rows = experiment_rows(experiments[first])
        elif unknown := [name for name in self.arguments if not has_result(name)]:
            raise self.error(f"wanted an experiment ({', '.join(experiments)}) or records, got {', '.join(unknown)}")
        else:
            rows = record_rows(self.arguments)
        titles, *lines = (f"| {' | '.join(row)} |" for row in rows)
        rule = f"|{'---|' * len(rows[0])}"
        table = nodes.container()
        self.state.nested_parse(StringList([titles, rule, *lines], source=self.env.docname), 0, table)
        return table.children


def setup(app: Sphinx) -> dict:
    app.add_directive("records", RecordsDirective)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
