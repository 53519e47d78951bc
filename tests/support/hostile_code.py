"""Pickles, and code of a repository's own, that must not be run."""

import json
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hostile_case import PUBLISH, RESUME, TRAIN, Case, backbone_config, edit

from cr_hf.training.checkpoints import write_checksums

EVIL = "CRTokenizer"


class Payload:
    """Unpickled, it runs a command."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.canary}",)


def code(canary: Path) -> str:
    """A module that acts as soon as it is imported."""
    return f"open({str(canary)!r}, 'w').close()\n\nclass {EVIL}:\n    pass\n"


# ---- pickles ----


def pickled(name: str, save: Callable[[Any, Path], object], keep: bool = False) -> Callable[[Path, Path], object]:
    """A file that runs a command when it is unpickled, in the place of the weights or beside them."""

    def damage(run: Path, canary: Path) -> None:
        save({"classifier.readout.bias": torch.zeros(5), "x": Payload(canary)}, run / name)
        if not keep and name != "model.safetensors":
            (run / "model.safetensors").unlink()

    return damage


def save_plainly(value: Any, path: Path) -> None:
    """As `pickle` itself does."""
    path.write_bytes(pickle.dumps(value))


def pickle_index(run: Path, canary: Path) -> None:
    """An index that names a shard which is a pickle."""
    pickled("pytorch_model-00001-of-00001.bin", torch.save)(run, canary)
    weights = {"classifier.readout.bias": "pytorch_model-00001-of-00001.bin"}
    (run / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weights}))


# ---- code ----


def tokenizer_code(run: Path, canary: Path) -> None:
    """A tokenizer that names code of its own."""
    (run / "tokenization_evil.py").write_text(code(canary))
    names = [f"tokenization_evil.{EVIL}"] * 2
    edit(run / "tokenizer_config.json", auto_map={"AutoTokenizer": names}, tokenizer_class=EVIL)


def model_code(run: Path, canary: Path) -> None:
    """A CR model that names code of its own for everything."""
    (run / "evil.py").write_text(code(canary))
    names = ("AutoConfig", "AutoModel", "AutoModelForSequenceClassification", "AutoTokenizer")
    edit(run / "config.json", auto_map={name: f"evil.{EVIL}" for name in names})


def backbone_code(run: Path, canary: Path) -> None:
    """A backbone that names code of its own."""
    (run / "evil.py").write_text(code(canary))
    auto_map = {name: f"evil.{EVIL}" for name in ("AutoConfig", "AutoModel", "AutoModelForTextEncoding")}
    backbone_config(auto_map=auto_map)(run, canary)


def unknown_backbone_code(run: Path, canary: Path) -> None:
    """The same, of a kind that transformers does not know."""
    backbone_code(run, canary)
    backbone_config(model_type="evil")(run, canary)


def other_model_code(run: Path, canary: Path) -> None:
    """A model of an unknown kind with code."""
    model_code(run, canary)
    edit(run / "config.json", model_type="evil")


def trained_backbone(damage: Callable[[Path, Path], object]) -> Callable[[Path, Path], object]:
    """A folder that a recipe names as its backbone, instead of a run."""

    def make(run: Path, canary: Path) -> None:
        values = json.loads((run / "config.json").read_text(encoding="utf-8"))["backbone_config"]
        (run / "config.json").write_text(json.dumps(values))
        damage(run, canary)

    return make


def backbone_of_unknown_kind(run: Path, canary: Path) -> None:
    """A backbone whose code lies beside it."""
    (run / "evil.py").write_text(code(canary))
    edit(run / "config.json", model_type="evil", auto_map={"AutoConfig": f"evil.{EVIL}", "AutoModel": f"evil.{EVIL}"})


def encoder_code(run: Path, canary: Path) -> None:
    """An encoder-decoder whose encoder transformers cannot take alone: it would ask whether to run this."""
    backbone_code(run, canary)
    small = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
    backbone_config(model_type="bart", is_encoder_decoder=True, **small)(run, canary)


def unfinished(name: str) -> Callable[[Path, Path], object]:
    """A run to be resumed, with a pickle for a part of its checkpoint."""

    def damage(run: Path, canary: Path) -> None:
        (run / "results.json").unlink()
        text = (run / "recipe.yaml").read_text()
        (run / "recipe.yaml").write_text(
            re.sub(r"output_dir: .*", "output_dir: run", text).replace("epochs: 1", "epochs: 3")
        )
        (last,) = (run / "checkpoints").glob("checkpoint-*")
        torch.save({"state": Payload(canary), "param_groups": []}, last / name)
        write_checksums(last)

    return damage


CASES: dict[str, Case] = {
    "a pickle alone": Case(pickled("pytorch_model.bin", torch.save), "there is no model.safetensors"),
    "a plain pickle alone": Case(pickled("pytorch_model.bin", save_plainly), "there is no model.safetensors"),
    "an index of pickles": Case(pickle_index, "there is no model.safetensors"),
    "a pickle beside the weights": Case(pickled("pytorch_model.bin", torch.save, keep=True)),
    "a pickle named like safetensors": Case(pickled("model.safetensors", torch.save), "model.safetensors"),
    "a plain pickle named like safetensors": Case(pickled("model.safetensors", save_plainly), "model.safetensors"),
    "training arguments": Case(pickled("training_args.bin", save_plainly, keep=True)),
    "code of a tokenizer": Case(tokenizer_code, "custom code"),
    "code of the model": Case(model_code),
    "code of the backbone": Case(backbone_code),
    "code of an unknown backbone": Case(unknown_backbone_code, "model_type='evil'"),
    "code of an encoder": Case(encoder_code, "run cannot be loaded"),
    "code of another model": Case(other_model_code, "run/config.json is not of a CR model (model_type='evil')"),
    "code of a backbone to train on": Case(trained_backbone(backbone_of_unknown_kind), "custom code", TRAIN),
    "code of a tokenizer to publish": Case(tokenizer_code, "custom code", PUBLISH),
    "code of a backbone to publish": Case(backbone_code, "needs code of its own repository", PUBLISH),
    "a pickle as optimizer": Case(
        unfinished("optimizer.pt"), "holds a pickle of more than tensors and numbers", RESUME
    ),
    "a pickle as schedule": Case(
        unfinished("scheduler.pt"), "holds a pickle of more than tensors and numbers", RESUME
    ),
    "a pickle as random state": Case(
        unfinished("rng_state.pth"), "holds a pickle of more than tensors and numbers", RESUME
    ),
    "a pickle to train on": Case(
        trained_backbone(pickled("pytorch_model.bin", torch.save)), "there is no model.safetensors", TRAIN
    ),
}
