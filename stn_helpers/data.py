"""Real digits as tensors, the whole set in memory.

MNIST is looked for in ``$STN_DATA``, then in the repository's ``data/``, then downloaded there. Where none of these
works, the handwritten digits inside scikit-learn stand in for it, brought to MNIST's format, and one line says so.
``$STN_SOURCE`` ("mnist" or "sklearn") forces the choice. ``python -m stn_helpers.data`` makes the data ready.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import shutil
import socket
import sys
import tempfile
import time
from pathlib import Path
from threading import Thread
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import numpy as np
import torch
from torch import Tensor

from stn_helpers.stand_in import stand_in_digits

__all__ = ["DataError", "DigitData", "Digits", "load_digits", "split_validation"]

# The four files of MNIST as LeCun, Cortes and Burges published them, unpacked: size in bytes and SHA-256.
MNIST_FILES = {
    "train-images-idx3-ubyte": (
        47_040_016, "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
    "train-labels-idx1-ubyte": (
        60_008, "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
    "t10k-images-idx3-ubyte": (
        7_840_016, "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
    "t10k-labels-idx1-ubyte": (
        10_008, "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
}  # fmt: skip
SOURCES = ("mnist", "sklearn")
WAY_OUT = (
    "To get MNIST, run `python -m stn_helpers.data` with a network, or set STN_DATA to the folder that holds "
    "MNIST/raw/ with its four *-ubyte files."
)
NETWORK_SECONDS = 6.0  # a mirror that has not answered by then counts as silent


class DataError(RuntimeError):
    """The digits cannot be had; the message names the file or folder and the way out."""


class Digits(NamedTuple):
    """Images and what they show."""

    images: Tensor
    """N×1×28×28 float32 in [0, 1], contiguous; the background is 0, ink is 1."""
    labels: Tensor
    """N int64, 0 to 9."""


class DigitData(NamedTuple):
    """A training and a test set, and where they come from."""

    train: Digits
    """60,000 digits of MNIST, or 1,437 of the stand-in."""
    test: Digits
    """10,000 digits of MNIST, or 360 of the stand-in. For reporting only; choices are made on `split_validation`."""
    source: str
    """Either "mnist" or "sklearn"."""


def load_digits(source: str | None = None, root: str | os.PathLike[str] | None = None) -> DigitData:
    """MNIST, or where it cannot be had, scikit-learn's digits in MNIST's format.

    MNIST's files are verified by SHA-256 at every load. A download goes into a temporary folder, is verified, and only
    then moved into place, so that no half file is ever left and two processes may do it at once.

    Args:
        source: "mnist" (nothing else will do), "sklearn" (do not look for MNIST), or None: what ``$STN_SOURCE`` says,
            and where that is not set, MNIST if it can be had.
        root: the one folder to look in and download to, as ``root/MNIST/raw``. None: look in ``$STN_DATA``, then
            in ``data/`` of the repository (of the current folder, where the package is installed without one), and
            download to the latter.

    Returns:
        Training and test digits on the CPU.

    Raises:
        DataError: MNIST was asked for, or the stand-in fails too, and cannot be had.
        ValueError: ``source`` or ``$STN_SOURCE`` is neither "mnist" nor "sklearn".
    """
    return _load(source, root)[0]


def split_validation(train: Digits, size: int, seed: int = 0) -> tuple[Digits, Digits]:
    """Hold part of the training set back, to make choices on.

    Args:
        train: the training digits.
        size: number of images to hold back, from 1 to one less than there are.
        seed: of the permutation that decides which; the same seed gives the same split.

    Returns:
        (train, validation): disjoint, together the whole of ``train``, both in random order.

    Raises:
        ValueError: ``size`` is not a whole number in that range.
    """
    total = len(train.labels)
    if not isinstance(size, int) or not 1 <= size < total:
        raise ValueError(f"size: wanted a whole number of images from 1 to {total - 1:,}, got {size!r}")
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    held, kept = order[:size], order[size:]
    return Digits(train.images[kept], train.labels[kept]), Digits(train.images[held], train.labels[held])


def _load(source: str | None, root: str | os.PathLike[str] | None) -> tuple[DigitData, str]:
    """The digits, and in words where they lie."""
    wanted, asked_by = _wanted_source(source)
    reason = f"{asked_by} asks for it"
    if wanted != "sklearn":
        try:
            return _load_mnist(root)
        except DataError as error:
            if wanted == "mnist":
                raise DataError(f"MNIST cannot be had: {error}. {WAY_OUT}") from None
            reason = f"MNIST cannot be had: {error}"
    try:
        train, test = stand_in_digits()
    except Exception as error:  # noqa: BLE001 - whatever a damaged installation of scikit-learn meets first
        raise DataError(f"{reason}; nor can scikit-learn's digits: {_one_line(error)}. {WAY_OUT}") from None
    say_once(f"Standing in for MNIST: the 1,797 digits of scikit-learn ({reason}). {WAY_OUT}")
    return DigitData(Digits(*train), Digits(*test), "sklearn"), "scikit-learn"


def _wanted_source(source: str | None) -> tuple[str | None, str]:
    """The source that is forced, if any, and the name of the argument or variable that forces it."""
    if source is not None:
        name, wanted = "source", source
    else:
        name, wanted = "STN_SOURCE", os.environ.get("STN_SOURCE") or None
    if wanted is not None and wanted not in SOURCES:
        raise ValueError(f"{name}: wanted 'mnist' or 'sklearn', got {wanted!r}")
    return wanted, name


_said: set[str] = set()


def say_once(message: str) -> None:
    """Print a line, once a process: chapters load their digits more than once."""
    if message not in _said:
        _said.add(message)
        print(message, flush=True)


# MNIST ------------------------------------------------------------------------------------------------------------


def _load_mnist(root: str | os.PathLike[str] | None) -> tuple[DigitData, str]:
    """Search, then download. What was wrong in one place is said when the next one serves, and raised when none does."""
    problems = []
    for folder, name in data_folders(root):
        try:
            data = _read_mnist(folder)
            break
        except DataError as error:
            # Before the first download data/ is rightly empty, and no word is lost on it.
            if name != "data/" or os.path.exists(folder / "MNIST"):
                problems.append(f"{name}: {error}")
    else:
        try:
            data = _download(folder)
        except DataError as error:
            raise DataError("; ".join([*problems, str(error)])) from None
    for problem in problems:
        say_once(f"{problem}. MNIST is taken from {folder} instead.")
    return data, str(folder)


def data_folders(root: str | os.PathLike[str] | None) -> list[tuple[Path, str]]:
    """The folders that may hold the data, in order, each with the name a reader knows it by; the last is downloaded to.

    These are ``root`` alone where it is given, else ``$STN_DATA`` and ``data/``, as `load_digits` says.
    """
    if root is not None:
        return [(_absolute(root), "root")]
    above = Path(__file__).resolve().parent.parent
    try:
        in_repository = 'name = "stn_helpers"' in (above / "pyproject.toml").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        in_repository = False
    places = [((above if in_repository else Path.cwd()) / "data", "data/")]
    if os.environ.get("STN_DATA"):
        places.insert(0, (_absolute(os.environ["STN_DATA"]), "STN_DATA"))
    return places


def _absolute(folder: str | os.PathLike[str]) -> Path:
    return Path(os.path.abspath(os.path.expanduser(folder)))


def _read_mnist(folder: Path) -> DigitData:
    raw = folder / "MNIST" / "raw"
    return DigitData(_read_part(raw, "train"), _read_part(raw, "t10k"), "mnist")


def _read_part(raw: Path, part: str) -> Digits:
    """One half of MNIST. The IDX header, 16 bytes for images and 8 for labels, is fixed by the checksum."""
    images = _read_verified(raw / f"{part}-images-idx3-ubyte")[16:].view(-1, 1, 28, 28)
    labels = _read_verified(raw / f"{part}-labels-idx1-ubyte")[8:]
    return Digits(images.float().div_(255), labels.long())


def _read_verified(path: Path) -> Tensor:
    size, checksum = MNIST_FILES[path.name]
    try:
        content = np.fromfile(path, dtype=np.uint8)
    except FileNotFoundError:
        raise DataError(f"{path} is missing") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from None
    if len(content) != size:
        raise DataError(f"{path} has {len(content):,} bytes, not {size:,}: it is cut off or not MNIST")
    if hashlib.sha256(content).hexdigest() != checksum:
        raise DataError(f"{path} is damaged: its SHA-256 is not that of MNIST")
    return torch.from_numpy(content)


def _download(folder: Path) -> DigitData:
    """Through torchvision into a temporary folder beside, verified, then moved."""
    try:
        from torchvision.datasets import MNIST
    except Exception as error:  # noqa: BLE001 - one built for another torch fails with whatever it meets first
        raise DataError(
            f"torchvision cannot be imported ({_one_line(error)}): torch and torchvision must be a pair from one "
            "index, try `pip install --force-reinstall torch torchvision`"
        ) from None
    mirrors = _answering(MNIST.mirrors, MNIST.resources[0][0])
    mirrored = type("MNIST", (MNIST,), {"mirrors": mirrors})  # torchvision names the folder after the class
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(NETWORK_SECONDS)  # torchvision sets none: a dead connection would hang for ever
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folder)
        with tempfile.TemporaryDirectory(prefix=".mnist-", dir=folder, ignore_cleanup_errors=True) as beside:
            print(f"Downloading MNIST (11.6 MB) to {folder}", flush=True)
            mirrored(beside, download=True)
            data = _read_mnist(Path(beside))
            source, target = Path(beside, "MNIST", "raw"), folder / "MNIST" / "raw"
            target.mkdir(parents=True, exist_ok=True)
            for name in MNIST_FILES:
                os.replace(source / name, target / name)
    except Exception as error:  # noqa: BLE001 - torchvision lets through what urllib, ssl, gzip and disk raise
        raise DataError(f"the download to {folder} failed: {_one_line(error)}") from None
    finally:
        socket.setdefaulttimeout(timeout)
    return data


def _answering(mirrors: list[str], filename: str) -> list[str]:
    """The mirrors that have the file, all asked at once.

    Without this a network that swallows packets costs a timeout for each address of each mirror; and no timeout at all
    covers the look-up of a name, hence the threads.
    """
    silent = dict.fromkeys(mirrors, f"no answer in {NETWORK_SECONDS:g} s")

    def ask(mirror: str) -> None:
        try:
            urlopen(Request(mirror + filename, method="HEAD"), timeout=NETWORK_SECONDS).close()
            silent[mirror] = ""
        except Exception as error:  # noqa: BLE001 - a thread's error would be printed, and help nobody
            silent[mirror] = _one_line(error)

    threads = [Thread(target=ask, args=(mirror,), daemon=True) for mirror in mirrors]
    deadline = time.monotonic() + NETWORK_SECONDS
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    if all(silent.values()):
        reasons = ", ".join(f"{urlsplit(mirror).netloc}: {reason}" for mirror, reason in silent.items())
        raise DataError(f"no mirror to download from ({reasons})")
    return [mirror for mirror in mirrors if not silent[mirror]]


def _remove_leftovers(folder: Path) -> None:
    """Temporary folders of downloads that were killed; a young one may belong to a process that still runs."""
    for leftover in folder.glob(".mnist-*"):
        with contextlib.suppress(OSError):
            if time.time() - leftover.stat().st_mtime > 3600:
                shutil.rmtree(leftover)


def _one_line(error: Exception) -> str:
    reason = getattr(error, "reason", error)  # urllib wraps the cause
    return " ".join(str(reason).split()) or type(error).__name__


def main(arguments: list[str] | None = None) -> int:
    """Make the digits ready and print one line: source, counts, folder. Exit status 1 where they cannot be had."""
    parser = argparse.ArgumentParser(prog="python -m stn_helpers.data", description=__doc__)
    parser.add_argument("--source", choices=SOURCES, help="take no other; default: $STN_SOURCE")
    parser.add_argument("--root", metavar="FOLDER", help="holds MNIST/, or is to hold it")
    options = parser.parse_args(arguments)
    try:
        data, where = _load(options.source, options.root)
    except (DataError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped; nothing half done is left.", file=sys.stderr)
        return 130
    counts = f"{len(data.train.labels):,} training and {len(data.test.labels):,} test digits"
    print(f"{data.source}: {counts} from {where}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
