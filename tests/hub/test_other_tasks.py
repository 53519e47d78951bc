"""Classifiers of images, sound, tokens and choices as they are published: a stranger loads them and gets the same."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import build_tokenizer
from modalities import batch_of, model_on
from PIL import Image
from transformers import ViTImageProcessorPil, Wav2Vec2FeatureExtractor, pipeline

from cr_hf import CRTrainer, CRTrainingArguments
from cr_hf.errors import PublishError
from cr_hf.hub import publish as publish_module
from cr_hf.hub.export import check_folder, check_loads, export_run

PROCESSORS: dict[str, Any] = {
    "vit": lambda: ViTImageProcessorPil(size={"height": 16, "width": 16}),
    "hubert": lambda: Wav2Vec2FeatureExtractor(return_attention_mask=True),
    "tokens": lambda: build_tokenizer("bert"),
    "choices": lambda: build_tokenizer("bert"),
}
TAGS = {"vit": "image-classification", "hubert": "audio-classification", "tokens": "token-classification"}
EXAMPLES = {"vit": Image.new("L", (9, 5)), "hubert": np.zeros(300, np.float32), "tokens": "a witty film"}


@pytest.mark.parametrize("kind", PROCESSORS)
def test_what_the_trainer_publishes_is_whole(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = batch_of(kind)
    rows = [{name: value[at] for name, value in batch.items()} for at in range(3)]
    args = CRTrainingArguments(str(tmp_path / "run"), max_steps=1, use_cpu=True)
    trainer = CRTrainer(
        model_on(kind, tmp_path / "backbone"), args, train_dataset=rows, processing_class=PROCESSORS[kind]()
    )
    trainer.train()
    folder = tmp_path / "published"
    monkeypatch.setattr(publish_module, "publish_run", lambda run_dir, name: export_run(run_dir, folder, name))
    publish_module.publish_trainer(trainer, "me/tiny")
    check_folder(folder)
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert f"pipeline_tag: {TAGS.get(kind, 'multiple-choice')}" in card
    if kind in TAGS:
        assert f'pipeline("{TAGS[kind]}", model="me/tiny", trust_remote_code=True)' in card
        assert pipeline(TAGS[kind], str(folder))(EXAMPLES[kind])
    if kind in ("vit", "tokens"):
        check_loads(folder)
    probe = folder / "probe.json"
    probe.write_text(probe.read_text(encoding="utf-8").replace('"shapes"', '"forms"'), encoding="utf-8")
    with pytest.raises(PublishError, match=r"probe\.json is damaged"):
        check_loads(folder)
