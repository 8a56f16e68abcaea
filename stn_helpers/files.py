"""Files that are whole or not there: written beside, then moved into place; tensors with a checksum; nothing unpickled."""

import json
import os
import zlib
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

__all__ = ["read_tensors", "write_atomically", "write_tensors"]


def write_atomically(path: str | Path, data: bytes) -> Path:
    """Write ``data`` to ``path``. Whoever reads it, or kills this process, finds the old file or the new one.

    Raises:
        OSError: the disk is full, or the folder cannot be written; what was there before is still whole.
    """
    path = Path(path)
    beside = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(beside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # or a power cut right after the move leaves an empty file
        os.replace(beside, path)
    except OSError as error:
        with suppress(OSError):  # it may not be there, nor its folder
            beside.unlink()
        message = f"{error.strerror}: cannot write {path}; free some space, or choose a folder that can be written"
        raise OSError(error.errno, message) from error
    return path


def write_tensors(path: str | Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> Path:
    """Write tensors and metadata to one safetensors file, with a checksum, which the format itself lacks.

    Raises:
        OSError: as for `write_atomically`.
    """
    # A contiguous copy of each: safetensors takes neither channels_last nor two names for one memory.
    plain = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    return write_atomically(path, save(plain, metadata | {"checksum": _checksum(plain, metadata)}))


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read what `write_tensors` wrote: the tensors, on the CPU, and the metadata.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated, damaged, or not from `write_tensors`.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with safe_open(path, "pt") as file:
            tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is truncated, or no safetensors file ({error}); delete it and make it anew") from error
    if metadata.pop("checksum", None) != _checksum(tensors, metadata):
        raise ValueError(f"{path} is damaged, its checksum does not match; delete it and make it anew")
    return tensors, metadata


def _checksum(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    crc = zlib.crc32(json.dumps(metadata, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        crc = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), crc)
        crc = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy(), crc)
    return f"{crc:08x}"
