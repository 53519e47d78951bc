"""`CRSentenceHead`: a CR head as the last module of a folder of sentence-transformers, which need not be installed."""

from __future__ import annotations

from typing import Any, Self

from torch import Tensor, nn

from .pretrained import CRForFeatureClassification


class CRSentenceHead(nn.Module):
    """A head on the embeddings of a `SentenceTransformer`, whatever its modules are: `Dense`, `Normalize`, ...

    `encoder.append(CRSentenceHead(head))` keeps what `encode` returns, and adds `scores` to what it returns with
    `output_value=None`; `CrossEncoder(modules=[*encoder])` predicts them. Loading such a folder takes this package and
    `trust_remote_code=True`, as sentence-transformers asks for every module that is not its own.

    Args:
        head: trained on `encoder.encode(texts)`.

    Raises:
        TypeError: if it is no head of features, as an estimator is none.
    """

    def __init__(self, head: CRForFeatureClassification) -> None:
        super().__init__()
        if not isinstance(head, CRForFeatureClassification):
            raise TypeError(f"head is a {type(head).__name__}: give CRClassifier().fit(embeddings, labels).model_")
        self.head = head

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Add `scores`, the logits, shape (batch, num_labels), to what the modules before made of a batch."""
        embeddings: Tensor = features["sentence_embedding"]
        return {**features, "scores": self.head(embeddings).logits}

    def get_config_dict(self) -> dict[str, Any]:
        """What sentence-transformers shows of a module."""
        return {"in_features": self.head.config.in_features, "num_labels": self.head.config.num_labels}

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """Write the head's own checkpoint."""
        self.head.save_pretrained(output_path)

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **options: Any) -> Self:
        """Load what `save` wrote, from a folder or the Hub."""
        names = {"token": "token", "revision": "revision", "local_files_only": "local_files_only"}
        names |= {"cache_folder": "cache_dir"}
        hub = {own: options[name] for name, own in names.items() if options.get(name) is not None}
        return cls(CRForFeatureClassification.from_pretrained(model_name_or_path, subfolder=subfolder, **hub))
