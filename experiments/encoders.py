"""Train recipes/sst5_frozen.yaml on features that encoders of fewer bits made, as `cr-hf train ... encoder=` does.

Validation and test rows are encoded in 32 bits, whatever the encoder of the rows of train: see cr_hf/features.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from .runner import part, start, write_result
from .sst5_seeds import train_seed

ENCODERS = ("torch", "torch-bf16", "openvino-bf16", "onnx-int8")


def main(argv: Sequence[str] | None = None) -> None:
    """Write experiments/results/encoders.json."""
    options = start(argv, "encoders", __doc__, "sst5", seeds=4)
    runs = {
        encoder: [
            part(options, f"{encoder}-{seed}", partial(train_seed, options, seed, f"encoder={encoder}"))["run"]
            for seed in range(options.seeds)
        ]
        for encoder in ENCODERS
    }
    write_result(options, recipe="recipes/sst5_frozen.yaml", runs=runs)


if __name__ == "__main__":
    main()
