"""`CRSentenceHead` without sentence-transformers: what it takes, adds, writes and reads."""

from pathlib import Path

import pytest
import torch

from cr_hf import CRClassifier, CRConfig, CRForFeatureClassification, CRSentenceHead


def test_it_comes_back_and_takes_heads_of_features_alone(tmp_path: Path) -> None:
    head = CRForFeatureClassification(CRConfig(in_features=6, hidden_sizes=[4], num_labels=3)).eval()
    head.fit_feature_norm(torch.randn(9, 6, generator=torch.Generator().manual_seed(1)))
    module = CRSentenceHead(head)
    module.save(str(tmp_path))
    batch = {"sentence_embedding": torch.randn(2, 6, generator=torch.Generator().manual_seed(0))}
    scores = CRSentenceHead.load(str(tmp_path), token=None, local_files_only=True)(batch)["scores"]
    assert torch.equal(scores, module(batch)["scores"])
    with pytest.raises(ValueError, match="in_features=6"):
        module({"sentence_embedding": torch.zeros(2, 5)})
    with pytest.raises(TypeError, match="CRClassifier: give"):
        CRSentenceHead(CRClassifier())
