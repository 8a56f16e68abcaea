"""Many jobs: the way they are done is followed, shown and reported; the usual way, as processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partialmethod
from multiprocessing.connection import wait
from typing import NamedTuple

import torch
from tqdm import tqdm

from stn_helpers.data import DataError
from stn_helpers.experiments.jobs import Job, checkpoint_path, do_job, state

__all__ = ["KEEP_MEMORY", "Event", "in_processes", "run_jobs"]

KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(32 * 2**20), "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}
"""Settings of GNU's C library, in bytes: it keeps what is freed, up to two gigabytes, for the next to ask.

Left to itself it hands the large tensors of a step back to the system and has every page of them made anew in the next step.
On a virtual machine that can take as long as the arithmetic."""


class Event(NamedTuple):
    """Something that happened to a job: it is "begun", "done" or "not done", and then why."""

    job: Job
    what: str
    why: str = ""


def run_jobs(jobs: list[Job], way: Callable[[list[Job]], Iterator[Event | None]]) -> None:
    """Do what is not done yet, and write one record for each job.

    Args:
        jobs: what to do.
        way: does jobs and tells what happens to them; None where for a second nothing did.

    Raises:
        RuntimeError: some jobs were not done; the message names them. The records of the others are written.
    """
    jobs = list(dict.fromkeys(jobs))
    waiting = [job for job in jobs if state(job) != "done"]
    for job in set(jobs) - set(waiting):  # a kill right after the record was written leaves the checkpoint
        checkpoint_path(job).unlink(missing_ok=True)
    print(f"{len(jobs)} jobs, {len(jobs) - len(waiting)} done", flush=True)
    if not waiting:
        return
    failed, running, ended, began = [], {}, 0, time.monotonic()
    with closing(way(waiting)) as events, tqdm(total=len(waiting), unit="job", disable=None) as bar:
        for event in events:
            if event is not None:
                line = f"{event.what}: {event.job.name}"
                if event.what == "begun":
                    running[event.job.name] = None
                else:
                    running.pop(event.job.name, None)
                    ended += 1
                    bar.update()
                    left = (time.monotonic() - began) / ended * (len(waiting) - ended)
                    line += f" ({ended} of {len(waiting)}, about {tqdm.format_interval(left)} left)"
                if event.what == "not done":
                    failed.append(f"{event.job.name} ({event.why})")
                with tqdm.external_write_mode():
                    print(line, flush=True)
                bar.set_postfix_str(f"at work: {', '.join(running)}" if running else "", refresh=False)
            bar.refresh()
    if failed:
        raise RuntimeError(f"not done: {', '.join(failed)}. The same command goes on from here")


def in_processes(jobs: list[Job], processes: int, device: str) -> Iterator[Event | None]:
    """Do jobs on this machine, ``processes`` at a time.

    Every job has a process of its own, so that one that fails or is killed takes no other along. The processor's cores
    are shared evenly among them. However this process ends, those end with it.

    Raises:
        ValueError: ``processes`` is below 1.
    """
    if processes < 1:
        raise ValueError(f"processes: wanted at least 1, got {processes}")
    threads = max(1, torch.get_num_threads() // max(1, min(processes, len(jobs))))
    os.environ.update(KEEP_MEMORY | os.environ)  # the C library reads them when a process starts; what is set stays
    context = multiprocessing.get_context("spawn")  # a fork would inherit torch's locked threads
    waiting, running = list(jobs), {}
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                job = waiting.pop(0)
                process = context.Process(target=_work, args=(job, device, threads, processes == 1), name=job.name)
                process.start()
                running[process.sentinel] = job, process
                yield Event(job, "begun")
            for sentinel in wait(list(running), timeout=1.0):
                job, process = running.pop(sentinel)
                process.join()
                code = process.exitcode
                yield Event(job, "not done", _ending(code)) if code else Event(job, "done")
            yield None
    finally:
        for _, process in running.values():
            process.terminate()


def _work(job: Job, device: str, threads: int, bar: bool) -> None:
    """What the job's process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends this process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # The training's own bar stands under that of the jobs; the bars of several trainings would overwrite each other.
    place = {"position": 1, "desc": job.name} if bar and sys.stderr.isatty() else {"file": open(os.devnull, "w")}
    tqdm.__init__ = partialmethod(tqdm.__init__, **place)
    torch.set_num_threads(threads)
    try:
        do_job(job, device)
    except (BlockingIOError, DataError) as error:  # their messages say it all; a traceback would hide them
        sys.exit(str(error))


def _end_with_parent() -> None:
    """Wait until the process that began this one has ended, be it by a kill; then end too."""
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _ending(exitcode: int) -> str:
    return f"ended by {signal.Signals(-exitcode).name}" if exitcode < 0 else "see its message above"
