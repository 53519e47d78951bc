"""Repositories that the previous release published load as they are, with the package and without it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import cr_hf.modeling.loading

PUBLISHED = Path(__file__).parent / "published"
KINDS = ["whole", "head_only"]
PACKAGE, INSIDE = "tiny-backbone", "tiny_backbone/model"
STRANGER = f"""
import json, sys
sys.modules["cr_hf"] = None
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.dynamic_module_utils import get_class_from_dynamic_module
found = {{}}
for folder in sys.argv[1:]:
    get_class_from_dynamic_module("modeling_cr.CRForSequenceClassification", folder)
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith("transformers_modules"):
            getattr(module, "BACKBONE_PACKAGES", {{}}).setdefault({PACKAGE!r}, {INSIDE!r})
    model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = json.load(open(folder + "/probe.json"))["texts"]
    found[folder] = model.predict_texts(texts, tokenizer).tolist()
print("\\n" + json.dumps(found))
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages with the backbone that the head-only repository names."""
    shutil.copytree(PUBLISHED / "backbone", tmp_path / INSIDE)
    (tmp_path / "tiny_backbone-0.1.0.dist-info").mkdir()
    metadata = f"Metadata-Version: 2.1\nName: {PACKAGE}\nVersion: 0.1.0\n"
    (tmp_path / "tiny_backbone-0.1.0.dist-info" / "METADATA").write_text(metadata, encoding="utf-8")
    monkeypatch.setitem(cr_hf.modeling.loading.BACKBONE_PACKAGES, PACKAGE, INSIDE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.fixture
def repositories(tmp_path: Path) -> Path:
    """Both repositories as they were published: what they have in common is kept once."""
    for kind in KINDS:
        for part in ("common", kind):
            shutil.copytree(PUBLISHED / part, tmp_path / "published" / kind, dirs_exist_ok=True)
    return tmp_path / "published"


def probe(kind: str) -> tuple[list[str], torch.Tensor]:
    saved = json.loads((PUBLISHED / kind / "probe.json").read_text(encoding="utf-8"))
    return saved["texts"], torch.tensor(saved["logits"])


@pytest.mark.parametrize("kind", KINDS)
def test_with_the_package_the_logits_are_equal_bit_by_bit(kind: str, site: Path, repositories: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(repositories / kind)
    texts, expected = probe(kind)
    assert torch.equal(model.predict_texts(texts, AutoTokenizer.from_pretrained(repositories / kind)), expected)


def test_without_the_package_their_own_code_gives_the_same(site: Path, repositories: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(site), "HF_MODULES_CACHE": str(site / "modules")}
    folders = [str(repositories / kind) for kind in KINDS]
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, *folders], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    for kind, folder in zip(KINDS, folders, strict=True):
        assert torch.equal(torch.tensor(found[folder]), probe(kind)[1])
