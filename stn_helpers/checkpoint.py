"""The state of a training in one file, so that a killed one goes on where it was."""

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from stn_helpers.files import read_tensors, write_tensors

__all__ = ["Checkpoint", "random_state", "set_random_state"]


class Checkpoint:
    """One safetensors file: every tensor of a training under its own name, step and owner in the header as JSON.

    Args:
        path: the file.
        run: what tells this training from another one; whatever JSON can hold.
        model: its parameters and buffers are kept.
        optimizer: its running means are kept.
        record: further tensors to keep.
        device: whose random numbers to keep.
    """

    def __init__(
        self,
        path: str | Path,
        run: dict,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        record: dict[str, Tensor],
        device: torch.device,
    ) -> None:
        shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
        self.path, self.run = Path(path), json.loads(json.dumps(run | {"parameters": shapes}))  # tuples to lists
        self.model, self.optimizer, self.record, self.device = model, optimizer, record, device

    def save(self, step: int) -> None:
        """Write the state as it is after ``step`` steps.

        Raises:
            OSError: the file cannot be written; an earlier one is still whole.
        """
        tensors = self.record | random_state(self.device)
        tensors |= {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for index, means in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in means.items()}
        write_tensors(self.path, tensors, {"kind": "training", "step": str(step), "run": json.dumps(self.run)})

    def restore(self) -> int:
        """Return to the state in the file; its step, or 0 and nothing changed where there is no file.

        Raises:
            ValueError: the file is damaged, or holds something else than the state of this training.
        """
        if not self.path.exists():
            return 0
        tensors, header = read_tensors(self.path)
        if header.get("kind") != "training":
            raise ValueError(f"checkpoint {self.path} holds no state of a training; give another path")
        there = json.loads(header["run"])
        differ = [name for name in self.run if there.get(name) != self.run[name]]
        if differ:
            raise ValueError(
                f"checkpoint {self.path} is of another training, with other {', '.join(differ)}; "
                "delete it to start anew, or give another path"
            )
        self.model.load_state_dict({name: tensors[f"model.{name}"] for name in self.model.state_dict()})
        state = {}
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        for index, parameter in enumerate(parameters):
            prefix = f"optimizer.{index}."
            own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
            # In the parameter's own memory order, as the optimizer made them: its kernel goes through both in step.
            state[index] = {
                name: torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value
                for name, value in own.items()
            }
        self.optimizer.load_state_dict({"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]})
        for name, value in self.record.items():
            value.copy_(tensors[name])
        set_random_state(self.device, tensors)
        return int(header["step"])


def random_state(device: torch.device) -> dict[str, Tensor]:
    """State of torch's random numbers: of the CPU, and of ``device`` where that is another one."""
    state = {"random.cpu": torch.get_rng_state()}
    if device.type != "cpu":
        state["random.device"] = torch.get_device_module(device).get_rng_state()
    return state


def set_random_state(device: torch.device, state: dict[str, Tensor]) -> None:
    """Return torch's random numbers to where they were at `random_state`."""
    torch.set_rng_state(state["random.cpu"])
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(state["random.device"])
