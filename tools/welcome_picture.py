"""Draw assets/welcome.png: digits turned by chance, where a trained transformer looks, and what it sees.

    python tools/welcome_picture.py

Trains the chapter's net for two epochs on turned MNIST digits (under a minute) and draws digits of the test set.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import torch

from stn_helpers import figures
from stn_helpers.data import load_digits
from stn_helpers.distortions import rotate_at_random
from stn_helpers.networks import mnist_stn
from stn_helpers.training import Recipe, fit

DIGITS = (2, 7, 4, 3, 5, 9, 6)


def main() -> None:
    digits = load_digits("mnist")
    net = mnist_stn(seed=0)
    fit(net, digits.train, Recipe(epochs=2), seed=0, device="cpu", augment=rotate_at_random)
    torch.manual_seed(3)
    chosen = torch.stack([digits.test.images[digits.test.labels == k][1] for k in DIGITS])
    turned = rotate_at_random(chosen)
    with torch.no_grad():
        glimpse = net.transformer.glimpse(turned)
    figures.use_style()
    picture = figures.show_images(
        {"what comes in": turned, "what it sees": glimpse.output}, grids={"what comes in": glimpse.grid}, size=1.1
    )
    picture.savefig(Path(__file__).parent.parent / "assets" / "welcome.png", dpi=150)
    plt.close(picture)


if __name__ == "__main__":
    main()
