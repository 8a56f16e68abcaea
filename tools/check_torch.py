"""Do torch and torchvision fit together? Silent success, or what is wrong and the way out (exit status 1).

The two are built for each other: of another version, or one for CUDA and one for the CPU, torchvision's own
operators are missing and the import fails far from the cause. So this runs right after installation.
"""

import importlib.metadata
import sys

ADVICE = """\
torch {torch} and torchvision {torchvision} do not fit together:
    {problem}
They must come from one place. Remove the environment and install both from one index:
    make distclean
    make book                     (both from pip's usual index)
    make book TORCH_INDEX=<URL>   (both from the index at URL)
If pip is configured with further sources (pip config list), they may hold only one of the two."""


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def find_problem() -> str | None:
    """Load both and run one of torchvision's compiled operators; what went wrong, or None."""
    try:
        import torch
        import torchvision

        boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.9]])
        kept = torchvision.ops.nms(boxes, torch.tensor([0.5, 0.9]), 0.5)
    except Exception as error:  # a broken pair raises anything: ImportError, OSError, RuntimeError, …
        return f"{type(error).__name__}: {error}".splitlines()[0]
    if kept.tolist() != [1]:
        return f"torchvision.ops.nms kept the boxes {kept.tolist()}, not [1]"
    return None


def main() -> None:
    problem = find_problem()
    if problem:
        sys.exit(ADVICE.format(torch=version("torch"), torchvision=version("torchvision"), problem=problem))


if __name__ == "__main__":
    main()
