"""The README's example runs as it stands there."""

import re
from pathlib import Path

import torch
from torch import nn

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def test_the_example_warps_nothing_at_first_and_learns():
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    names = {"your_net": nn.Flatten()}
    exec(example, names)
    images = torch.rand(2, 3, 64, 64)
    output = names["net"](images)
    torch.testing.assert_close(output, images.flatten(1), rtol=0, atol=1e-5)
    output.square().sum().backward()
    assert all(p.grad is not None for p in names["net"].parameters())


def test_every_command_of_the_table_exists():
    makefile = (Path(__file__).parent.parent / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"`make (\w+)", README)) | set(re.findall(r"^make (\w+)", README, flags=re.MULTILINE))
    assert targets and all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)
    for script in re.findall(r"python (benchmarks/\w+\.py)", README):
        assert (Path(__file__).parent.parent / script).is_file()
