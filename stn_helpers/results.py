"""What was measured: figures (JSON) and small trained nets (safetensors) in the folder ``results/``."""

import datetime
import json
import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import nn

from stn_helpers.files import read_tensors, write_atomically, write_tensors

__all__ = ["describe_device", "has_result", "load_result", "load_weights", "results_folder", "save_result", "save_weights"]

WAY_OUT = "take it from the book's repository, folder results/, or delete it and measure anew"


def results_folder() -> Path:
    """The folder of results: ``STN_RESULTS`` where that is set; else in the package, or beside it in a checkout."""
    if chosen := os.environ.get("STN_RESULTS"):
        return Path(chosen)
    package = Path(__file__).resolve().parent
    inside = package / "results"
    return inside if inside.is_dir() else package.parent / "results"


def save_result(name: str, figures: dict, *, seeds: list[int], command: str, device: str = "cpu") -> Path:
    """Write figures to ``results/NAME.json``, with what it takes to measure them again.

    Args:
        name: the file's name without its ending: letters, digits, ``_``, ``-``, ``.``; a folder may stand before it.
        figures: what was measured; whatever JSON can hold, NaN and infinity excepted.
        seeds: of the runs.
        command: what to type to make this file anew.
        device: what it ran on; its name, the versions of Python, torch and this package, and the date are added.

    Returns:
        The path of the file.

    Raises:
        ValueError: ``name`` or ``figures`` is not as above.
        OSError: the file cannot be written; an earlier one is still whole.
    """
    record = {
        "figures": figures,
        "seeds": list(seeds),
        "command": command,
        "device": describe_device(device),
        "versions": _versions(),
        "date": datetime.date.today().isoformat(),
    }
    try:
        text = json.dumps(record, indent=1, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"figures: JSON cannot hold them ({error}); give plain numbers, text, lists, dicts") from error
    return write_atomically(_path(name, ".json"), text.encode() + b"\n")


def has_result(name: str) -> bool:
    """Whether there is a file ``results/NAME.json``."""
    return _path(name, ".json").is_file()


def load_result(name: str) -> dict:
    """Read ``results/NAME.json``: a dict with figures, seeds, command, device, versions, date.

    Args:
        name: as for `save_result`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged.
    """
    path = _path(name, ".json")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no file {path}; {WAY_OUT}") from None
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); {WAY_OUT}") from error
    if not isinstance(record, dict) or not isinstance(record.get("figures"), dict):
        raise ValueError(f"{path} is not from save_result: it has no figures; {WAY_OUT}")
    return record


def save_weights(name: str, model: nn.Module, dtype: torch.dtype | None = None) -> Path:
    """Write the parameters and buffers of ``model`` to ``results/NAME.safetensors``; return its path.

    With a ``dtype``, such as ``torch.float16``, the floating ones are rounded to it, which makes a smaller file.
    """
    tensors = {
        key: value.to(dtype) if dtype and value.is_floating_point() else value
        for key, value in model.state_dict().items()
    }
    return write_tensors(_path(name, ".safetensors"), tensors, {"kind": "weights"})


def load_weights(name: str, model: nn.Module) -> None:
    """Copy ``results/NAME.safetensors`` into ``model``, which must have the same parameters and buffers.

    Numbers stored in a smaller dtype become the model's.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or does not fit: then the model is unchanged, and the message says where.
    """
    path = _path(name, ".safetensors")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; {WAY_OUT}")
    tensors, _ = read_tensors(path)
    here = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    there = {key: tuple(value.shape) for key, value in tensors.items()}
    differ = [
        f"{key} ({there.get(key, 'absent')} in the file, {here.get(key, 'absent')} in the model)"
        for key in sorted(here | there)
        if here.get(key) != there.get(key)
    ]
    if differ:  # asked before anything is copied: load_state_dict would leave the model half filled
        raise ValueError(f"{path} does not fit the model: " + ", ".join(differ))
    model.load_state_dict(tensors)


def describe_device(device: str = "cpu") -> str:
    """The name of the GPU, or of the processor with the number of torch's threads: ``AMD EPYC, 2 threads``."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")  # Linux; elsewhere platform knows the name
    found = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text()) if cpuinfo.exists() else None
    processor = found[1].strip() if found else platform.processor() or platform.machine()
    return f"{processor} (MPS)" if torch.device(device).type == "mps" else f"{processor}, {torch.get_num_threads()} threads"


def _path(name: str, ending: str) -> Path:
    if not re.fullmatch(r"(\w[\w.-]*/)?\w[\w.-]*", name):
        raise ValueError(f"name must be letters, digits, '_', '-' or '.', after at most one folder; got {name!r}")
    return results_folder() / (name + ending)


def _versions() -> dict[str, str]:
    try:
        own = version("stn_helpers")
    except PackageNotFoundError:  # a checkout that nobody installed
        own = "not installed"
    return {"python": platform.python_version(), "torch": torch.__version__, "stn_helpers": own}
