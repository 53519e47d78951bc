"""Lines about sentence-transformers."""

from typing import Any

import numpy as np
import pytest
import torch
from classifiers import TEXTS, feature_model
from compatible import Desk, refused, works

from cr_hf import CRSentenceHead

AREA = "sentence-transformers"
PAIRS = [(text, text) for text in TEXTS]


class Library:
    """A tiny `SentenceTransformer` with a `Dense` module and a head behind it."""

    def __init__(self, desk: Desk) -> None:
        library = pytest.importorskip("sentence_transformers")
        modules: Any = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
        dense: Any = pytest.importorskip("sentence_transformers.base.modules").Dense
        self.Encoder, self.CrossEncoder = library.SentenceTransformer, library.CrossEncoder
        parts = [modules.Transformer(str(desk.backbone)), modules.Pooling(32, "mean"), dense(32, 16)]
        self.encoder = library.SentenceTransformer(modules=parts, device="cpu")
        self.features = torch.tensor(self.encoder.encode(TEXTS))
        self.head = feature_model()
        self.encoder.append(CRSentenceHead(self.head))


@works(AREA, "`SentenceTransformer` with `CRSentenceHead` behind its `Dense`: the same embeddings, and `scores`")
def _(desk: Desk) -> None:
    library, folder = Library(desk), str(desk.folder)
    library.encoder.save(folder)
    loaded = library.Encoder(folder, device="cpu", trust_remote_code=True)
    assert torch.equal(torch.tensor(loaded.encode(TEXTS)), library.features)
    scores = torch.stack([row["scores"] for row in loaded.encode(TEXTS, output_value=None)])
    torch.testing.assert_close(scores, library.head(library.features).logits.detach())


@refused(
    AREA,
    "that folder without `trust_remote_code=True`",
    "refused by sentence-transformers, as every module that is not its own; this package has to be installed",
    "trust_remote_code=True",
)
def _(desk: Desk) -> None:
    library, folder = Library(desk), str(desk.folder)
    library.encoder.save(folder)
    library.Encoder(folder, device="cpu")


@works(AREA, "`CrossEncoder(modules=[*encoder])`, saved and loaded: scores of pairs, two classes or more")
def _(desk: Desk) -> None:
    library, folder = Library(desk), str(desk.folder)
    model = library.CrossEncoder(modules=[*library.encoder], device="cpu")
    model.save(folder)
    found = library.CrossEncoder(folder, device="cpu", trust_remote_code=True).predict(PAIRS)
    assert found.shape == (len(TEXTS), 3)
    np.testing.assert_array_equal(found, model.predict(PAIRS))


@works(AREA, "`CrossEncoder` of a CR checkpoint: scores of pairs, classes or one number")
def _(desk: Desk) -> None:
    library = Library(desk)
    for count in (1, 3):
        model, _ = desk.texts(num_labels=count)
        folder = desk.folder
        model.save_pretrained(folder, head_only=False)
        desk.tokenizer.save_pretrained(folder)
        expected = model.predict_texts(TEXTS, desk.tokenizer, TEXTS)
        expected = expected.sigmoid().squeeze(-1) if count == 1 else expected
        torch.testing.assert_close(
            torch.tensor(library.CrossEncoder(str(folder), device="cpu").predict(PAIRS)), expected
        )
