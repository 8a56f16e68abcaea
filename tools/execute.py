"""Execute the chapters that the book's cache lacks, as many at once as there are cores (`make book` does it).

The build would execute them one after the other, and a chapter gains little from a second core: its nets and batches
are small. The build then finds all of them in the cache.
"""

import logging
import os
import sys
from pathlib import Path

import yaml
from book_extension import ROOT, cache_folder, say_nothing
from jupyter_cache import get_cache
from jupyter_cache.executors import load_executor
from nbclient.output_widget import OutputWidget

OutputWidget.sync_state = say_nothing  # here, as processes that are not forked import this file afresh

logger = logging.getLogger("chapters")


def main() -> None:
    cache = get_cache(cache_folder())
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cache.add_nb_to_project(str(path))
    waiting = len(cache.list_unexecuted())
    if waiting == 0:
        return
    # Two computations that share the cores must not both want all of them: each would be several times slower.
    os.environ["OMP_NUM_THREADS"] = str(max(1, os.cpu_count() // waiting))
    logger.setLevel(logging.INFO)  # the executor then says which chapter it has begun, and which is done
    timeout = yaml.safe_load((ROOT / "_config.yml").read_text())["execute"]["timeout"]
    done = load_executor("local-parallel", cache, logger).run_and_cache(timeout=timeout)
    for uri in done.excepted:
        print(cache.get_project_record(uri).traceback)
    if failed := [Path(uri).name for uri in done.excepted + done.errored]:
        sys.exit(f"These chapters failed, see above: {', '.join(failed)}")


if __name__ == "__main__":
    main()
