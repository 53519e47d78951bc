"""Backbones whose weights are not whole, or of another format, are refused in one line that names the first."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import TinyBackbone
from safetensors.torch import load_file, save_file

from cr_hf import CRForSequenceClassification

Tensors = dict[str, torch.Tensor]
CASES = Path(__file__).resolve().parents[3] / "shared" / "cases"


def renamed(prefix: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {prefix + name: value for name, value in tensors.items()}


def without_a_layer(tensors: Tensors) -> Tensors:
    return {name: value for name, value in tensors.items() if "layer.1." not in name}


def of_another_vocabulary(tensors: Tensors) -> Tensors:
    name = "embeddings.word_embeddings.weight"
    return {**tensors, name: tensors[name][:40].clone()}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (renamed("module."), r"lacks 37 tensors of BertModel, embeddings\.\S+ first"),
        (renamed("model."), r"lacks 37 tensors of BertModel, embeddings\.\S+ first"),
        (renamed("encoder.model."), r"lacks 37 tensors of BertModel, embeddings\.\S+ first"),
        (without_a_layer, r"lacks 16 tensors of BertModel, encoder\.layer\.1\.\S+ first"),
        (of_another_vocabulary, r"word_embeddings\.weight of shape \[40, 32\], but its config\.json says"),
    ],
)
def test_weights_that_are_not_whole(
    damage: Callable[[Tensors], Tensors], message: str, tiny_backbone: TinyBackbone, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_backbone("bert"), tmp_path / "backbone")
    tensors = {name: value for name, value in load_file(folder / "model.safetensors").items() if "pooler" not in name}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    CRForSequenceClassification.from_backbone(str(folder), num_labels=2)  # a pooler is not used
    save_file(damage(tensors), folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=message) as caught:
        CRForSequenceClassification.from_backbone(str(folder), num_labels=2)
    assert "\n" not in str(caught.value)


def test_a_clone_without_its_weights_says_how_to_fetch_them(tiny_backbone: TinyBackbone, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_backbone("bert"), tmp_path / "backbone")
    model = CRForSequenceClassification.from_backbone(str(folder), num_labels=2)
    model.save_pretrained(tmp_path / "whole", head_only=False)
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 90000\n"
    for place in (folder, tmp_path / "whole"):
        (place / "model.safetensors").write_text(pointer, encoding="utf-8")
    with pytest.raises(OSError, match=r"git lfs pull"):
        CRForSequenceClassification.from_backbone(str(folder), num_labels=2)
    with pytest.raises(OSError, match=r"git lfs pull"):
        CRForSequenceClassification.from_pretrained(tmp_path / "whole")


def test_pickles_alone_come_with_the_line_that_converts_them(tiny_backbone: TinyBackbone, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_backbone("bert"), tmp_path / "backbone")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(OSError, match=r"if you trust pytorch_model\.bin: python -c ") as caught:
        CRForSequenceClassification.from_backbone(str(folder), num_labels=2)
    exec(str(caught.value).split('python -c "')[1].rstrip('"'), {})
    CRForSequenceClassification.from_backbone(str(folder), num_labels=2)


@pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not part of a clone")
@pytest.mark.parametrize("name", ["deeper", "encoder_model", "model", "module", "vocab"])
def test_the_cases(name: str) -> None:
    with pytest.raises(ValueError, match=r"lacks|of shape"):
        CRForSequenceClassification.from_backbone(str(CASES / "16-weight-prefix" / name), num_labels=2)


def test_a_classifier_saved_with_other_names_is_refused(tiny_backbone: TinyBackbone, tmp_path: Path) -> None:
    CRForSequenceClassification.from_backbone(str(tiny_backbone("bert")), num_labels=2).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(renamed("module.")(tensors), tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="is not a whole CR checkpoint"):
        CRForSequenceClassification.from_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["head_only"] is False
