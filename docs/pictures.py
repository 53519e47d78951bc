"""Draw the pictures of README.md and docs/: python docs/pictures.py"""

from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch.nn.functional import gelu

from cr_hf.modeling import CRLayer
from cr_hf.study.pictures import draw_differences, draw_lambda, draw_tail_ratio, save_picture
from experiments.tables import study

IMAGES = Path(__file__).parent / "images"


def draw_polynomial() -> Figure:
    """GELU, the cubic that a unit starts from, and its linear tails."""
    z = torch.linspace(-4, 4, 401)
    figure = Figure(figsize=(4.8, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(z, gelu(z), label="GELU", color="0.5")
    for limit, label, line in ((None, "the cubic", "--"), (1.5, "with linear tails", "-")):
        layer = CRLayer(1, 4096, polynomial_range=limit)  # each unit starts with a little noise of its own
        axes.plot(z, layer.activate(z[:, None].expand(-1, 4096))[0].mean(1).detach(), line, label=label)
    axes.axvspan(-1.5, 1.5, color="0.93", zorder=0)
    axes.set(xlabel="pre-activation z", ylabel="output", ylim=(-1, 6), xticks=np.arange(-4, 5))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


if __name__ == "__main__":
    IMAGES.mkdir(exist_ok=True)
    save_picture(draw_polynomial(), IMAGES / "polynomial.png")
    for name, draw in (("differences", draw_differences), ("lambda", draw_lambda), ("tail_ratio", draw_tail_ratio)):
        save_picture(draw(study()), IMAGES / f"{name}.png")
