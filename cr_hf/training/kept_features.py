"""Features of a frozen backbone of texts, kept while a training lasts: a text is encoded once, not once an epoch."""

from __future__ import annotations

import hashlib
import math
from typing import Any, cast

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor
from transformers import Trainer
from transformers.trainer_utils import has_length
from transformers.utils import logging

from ..modeling import CRForSequenceClassification

LIMIT = 2**30
"""Bytes of features that are kept; texts beyond are encoded whenever they come."""
INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds")


class KeptFeatures:
    """Stands in for `_features` of a model: the rows of a batch that were seen before are not encoded again."""

    def __init__(self, model: CRForSequenceClassification) -> None:
        self._model, self._encode, self._kept = model, model._features, dict[bytes, Tensor]()

    def __call__(self, inputs: dict[str, Tensor | None], *outputs: bool | None) -> tuple[Tensor, Any]:
        """Pooled features, shape (batch, in_features), and what they were made of where all was encoded."""
        model, given = self._model, {name: value for name, value in inputs.items() if value is not None}
        asked = any(outputs) or model.config.output_hidden_states or model.config.output_attentions
        if asked or "inputs_embeds" in given or model._backbone_trains():
            self._kept.clear()  # what let it train for a while may freeze it again
            return self._encode(inputs, *outputs)
        keys = _row_keys(given)
        new = [row for row, key in enumerate(keys) if key not in self._kept]
        found: dict[bytes, Tensor] = {}
        if new:
            chosen: Any = {name: value[new] for name, value in given.items()}
            found = dict(zip([keys[row] for row in new], self._encode(chosen)[0], strict=True))
        features = torch.stack([found[key] if key in found else self._kept[key] for key in keys])
        if len(self._kept) * features[0].nbytes < LIMIT:
            self._kept |= found
        return features, None


def _row_keys(inputs: dict[str, Tensor]) -> list[bytes]:
    """A hash of each row of a batch, from its first attended token to its last, and of the precision that is set."""
    device = inputs["input_ids"].device.type
    precision = f"{torch.is_autocast_enabled(device)} {torch.get_autocast_dtype(device)}".encode()
    arrays = {name: value.cpu().numpy() for name, value in inputs.items()}
    mask, keys = arrays.get("attention_mask", np.ones_like(arrays["input_ids"])), []
    for row, own in enumerate(mask):
        places, digest = np.flatnonzero(own), hashlib.blake2b(precision, digest_size=16)
        length = slice(places[0], places[-1] + 1) if len(places) else slice(0)
        for name, values in arrays.items():
            digest.update(f"{name} {values[row, length].size} ".encode() + values[row, length].tobytes())
        keys.append(digest.digest())
    return keys


def keep_features(trainer: Trainer) -> None:
    """Encode the training set by a frozen backbone of texts, and let this training read that.

    All at once and in one order, so that a resumed training reads the same numbers; of several processes each encodes
    its part and takes over the others'. Not where the weights are divided among them, a hook wants to see the backbone
    run, or it is compiled; nor where training ends within an epoch, or not all features can be kept.
    """
    args: Any = trainer.args
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    if not isinstance(model, CRForSequenceClassification) or model._backbone_trains():
        return
    hooked = any(module._forward_hooks or module._forward_pre_hooks for module in model.backbone.modules())
    is_divided = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    if hooked or is_divided or args.torch_compile or not has_length(trainer.train_dataset):
        return
    rows = len(trainer.train_dataset)
    steps = args.max_steps if args.max_steps > 0 else math.inf
    batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    seen = min(steps * batch, args.num_train_epochs * rows)
    if seen < rows or rows * cast(int, model.config.in_features) * model.dtype.itemsize > LIMIT:
        return
    vars(model)["_features"] = kept = KeptFeatures(model)
    model.eval()
    with torch.random.fork_rng(devices=[]), torch.no_grad(), trainer.accelerator.autocast():
        for part in logging.tqdm(trainer.get_train_dataloader(), desc="Encoding", disable=args.disable_tqdm):
            inputs: dict[str, Any] = dict(trainer._prepare_inputs(part))
            kept({name: inputs.get(name) for name in INPUTS})
    if args.world_size > 1:
        own = {key: features.cpu() for key, features in kept._kept.items()}
        kept._kept = {key: features.to(model.device) for one in gather_object([own]) for key, features in one.items()}


def forget_features(trainer: Trainer) -> None:
    """Let the model encode every text again."""
    vars(trainer.accelerator.unwrap_model(trainer.model)).pop("_features", None)
