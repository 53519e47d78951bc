"""What a GPU does: each row against its peer, and against the products or the bytes that the work cannot do without.

Without a GPU it says so and writes nothing; `--rehearse` runs every row small on the CPU, and writes nothing either.
Backbones are of random weights, so that nothing need be downloaded. Writes benchmarks/results/gpu.json.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from bench_head_step import HIDDEN, IN_FEATURES, LABELS, cr_head, mlp, step_of
from harness import in_turn, publish, ratio
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F
from transformers import BertConfig, BertModel

from cr_hf import CRConfig, CRForSequenceClassification
from cr_hf.training import CRTrainingArguments, SweepHead, train_heads


@dataclass(frozen=True)
class Size:
    """How large the work is: rows of a head's step, heads of a sweep, texts and layers of an encoder, rounds."""

    rows: tuple[int, ...] = (256, 32_768)
    heads: int = 1000
    texts: int = 64
    tokens: int = 128
    layers: int = 12
    rounds: int = 30


REHEARSED = Size(rows=(32,), heads=3, texts=2, tokens=8, layers=1, rounds=1)


def finished(call: Callable[[], object]) -> Callable[[], None]:
    """A call that returns when the GPU has done its work."""

    def work() -> None:
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return work


def limits(rows: int, shapes: list[tuple[int, int]], device: str, dtype: torch.dtype, passes: int) -> dict[str, Any]:
    """The bare products of linear layers, and a copy of the least bytes that they and their optimizer move."""
    pairs = [(torch.randn(rows, a, device=device, dtype=dtype), torch.randn(a, b, device=device, dtype=dtype))
             for a, b in shapes]  # fmt: skip
    # Each pass reads what goes in and writes what comes out; AdamW reads weight, gradient and moments, writes three.
    numbers = passes * sum(rows * (a + b) for a, b in shapes) + (7 if passes > 1 else 1) * sum(
        a * b for a, b in shapes
    )
    moved = torch.empty(max(1, numbers // 2), device=device, dtype=dtype)
    return {
        "products": finished(lambda: [x @ weight for x, weight in pairs for _ in range(passes)]),
        "bytes": finished(moved.clone),
    }


def head_steps(device: str, size: Size) -> Iterator[dict[str, Any]]:
    """A compiled training step of a head with DREG against a GELU head's, and against its limit."""
    for rows in size.rows:
        features = torch.randn(rows, IN_FEATURES, device=device)
        labels = torch.randint(0, LABELS, (rows,), device=device)

        def cr_loss(model: nn.Module, x: Tensor = features, y: Tensor = labels) -> Tensor:
            return model(features=x, labels=y).loss

        def mlp_loss(model: nn.Module, x: Tensor = features, y: Tensor = labels) -> Tensor:
            return F.cross_entropy(model(x), y)

        shapes = [(IN_FEATURES, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, LABELS)]
        work = {
            "cr": step_of(cr_head(features), cr_loss, compiled=True),
            "mlp": step_of(mlp().to(device), mlp_loss, compiled=True),
            **limits(rows, shapes, device, torch.float32, passes=3),
        }
        seconds = in_turn(work, size.rounds, repeat=5, warm_up=5)
        yield ratio(f"head step, {rows:,} rows: CR + DREG / GELU, compiled", seconds["cr"], seconds["mlp"], 1.05)
        limit = [max(both) for both in zip(seconds["products"], seconds["bytes"], strict=True)]
        yield ratio(f"head step, {rows:,} rows: CR + DREG / its products or bytes", seconds["cr"], limit, 1.3)


def sweep(device: str, size: Size) -> Iterator[dict[str, Any]]:
    """Many heads at once against one."""
    generator = np.random.default_rng(0)
    features, labels = generator.standard_normal((2048, 384), dtype=np.float32), generator.integers(0, LABELS, 2048)
    config = CRConfig(in_features=384, num_labels=LABELS)
    shared = {"num_train_epochs": 3, "per_device_train_batch_size": 128, "use_cpu": device == "cpu"}
    heads = [SweepHead(config, CRTrainingArguments(seed=seed, **shared)) for seed in range(size.heads)]

    def train(chosen: list[SweepHead]) -> None:
        train_heads(features, labels, chosen, validation_features=features[:256], validation_labels=labels[:256])

    work = {"many": finished(lambda: train(heads)), "one": finished(lambda: train(heads[:1]))}
    seconds = in_turn(work, rounds=min(3, size.rounds), warm_up=1)
    yield ratio(f"a sweep of {size.heads:,} heads / one head", seconds["many"], seconds["one"], 2.0)


def classifier(device: str, size: Size, **fields: Any) -> CRForSequenceClassification:
    """A BERT of base size with a head."""
    backbone = BertModel(BertConfig(num_hidden_layers=size.layers))
    return CRForSequenceClassification.from_backbone(
        backbone, num_labels=LABELS, feature_norm="layer_norm", freeze_backbone=False, **fields
    ).to(device)


def encoding(device: str, size: Size) -> Iterator[dict[str, Any]]:
    """Features in bf16 against fp32, and against the products of the encoder's linear layers."""
    model = classifier(device, size).eval()
    ids = torch.randint(1000, 30_000, (size.texts, size.tokens), device=device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    @torch.no_grad()
    def encode(is_narrow: bool) -> None:
        with torch.autocast(device, torch.bfloat16, enabled=is_narrow):
            model.get_features(**inputs)

    width, inner = model.config.backbone_config.hidden_size, model.config.backbone_config.intermediate_size
    shapes = [*[(width, width)] * 4, (width, inner), (inner, width)] * size.layers
    work = {
        "bf16": finished(lambda: encode(True)),
        "fp32": finished(lambda: encode(False)),
        "products": limits(ids.numel(), shapes, device, torch.bfloat16, passes=1)["products"],
    }
    seconds = in_turn(work, size.rounds)
    yield ratio("encoding in bf16 / in fp32", seconds["bf16"], seconds["fp32"])
    yield ratio("encoding in bf16 / its bare products", seconds["bf16"], seconds["products"], 1.1)


def fine_tuning(device: str, size: Size) -> Iterator[dict[str, Any]]:
    """Steps in bf16: a head with DREG against a GELU head, compiled against eager, and FSDP2 against none."""
    ids = torch.randint(1000, 30_000, (size.texts // 2, size.tokens), device=device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids[:, 0] % LABELS}

    def loss_of(model: nn.Module) -> Tensor:
        with torch.autocast(device, torch.bfloat16):
            return model(**inputs).loss

    torch.distributed.init_process_group("nccl" if device == "cuda" else "gloo", rank=0, world_size=1)
    sharded = classifier(device, size).train()
    for block in sharded.backbone.encoder.layer:
        fully_shard(block, mesh=torch.distributed.init_device_mesh(device, (1,)))
    fully_shard(sharded, mesh=torch.distributed.init_device_mesh(device, (1,)))
    work = {
        "cr": step_of(classifier(device, size).train(), loss_of),
        "gelu": step_of(classifier(device, size, activation="gelu", dreg_lambda=0.0).train(), loss_of),
        "compiled": step_of(classifier(device, size).train(), loss_of, compiled=True),
        "sharded": step_of(sharded, loss_of),
    }
    seconds = in_turn(work, size.rounds)
    torch.distributed.destroy_process_group()
    yield ratio("fine-tuning step: CR + DREG / GELU head", seconds["cr"], seconds["gelu"], 1.02)
    yield ratio("fine-tuning step: compiled / eager", seconds["compiled"], seconds["cr"])
    yield ratio("fine-tuning step: FSDP2 on one device / not sharded", seconds["sharded"], seconds["cr"])


def measure(device: str, size: Size) -> list[dict[str, Any]]:
    """Every row."""
    torch.manual_seed(0)
    os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": os.environ.get("MASTER_PORT", "29511")})
    return [row for part in (head_steps, sweep, encoding, fine_tuning) for row in part(device, size)]


def main(argv: list[str] | None = None) -> None:
    """Measure and publish, where there is a GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rehearse", action="store_true", help="every row small on the CPU")
    if parser.parse_args(argv).rehearse:
        print(*(row["name"] for row in measure("cpu", REHEARSED)), sep="\n")
    elif torch.cuda.is_available():
        publish("gpu", measure("cuda", Size()))
    else:
        print("There is no GPU here, so nothing is measured on one: --rehearse runs every row small on the CPU.")


if __name__ == "__main__":
    main()
