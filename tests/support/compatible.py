"""Lines of docs/compatibility.md: what was tried with the tools around a model, each as a function that tries it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from classifiers import LABELS, TEXTS, feature_model, text_model
from feature_rows import Rows
from transformers import AutoTokenizer

from cr_hf import CRForFeatureClassification, CRForSequenceClassification, CRTrainer, CRTrainingArguments


@dataclass(frozen=True)
class Line:
    """One thing that was tried.

    Args:
        area: heading under which it stands.
        what: what was tried.
        attempt: raises what the user would see.
        result: what the page says of it.
        message: what the error says, where it ends in one.
    """

    area: str
    what: str
    attempt: Callable[[Desk], None]
    result: str = "works"
    message: str = ""


LINES: list[Line] = []


def works(area: str, what: str) -> Callable[[Callable[[Desk], None]], None]:
    """Note a function as a line that works."""
    return lambda attempt: LINES.append(Line(area, what, attempt))


def refused(area: str, what: str, why: str, message: str) -> Callable[[Callable[[Desk], None]], None]:
    """Note a function as a line that ends in an error with this message."""
    return lambda attempt: LINES.append(Line(area, what, attempt, why, message))


def limited(area: str, what: str, how: str) -> Callable[[Callable[[Desk], None]], None]:
    """Note a function as a line that runs, though not as one might think."""
    return lambda attempt: LINES.append(Line(area, what, attempt, how))


class Desk:
    """Tiny models and rows for a line to work with."""

    def __init__(self, backbone: Path) -> None:
        self.backbone = backbone
        self.tokenizer = AutoTokenizer.from_pretrained(backbone)

    @property
    def folder(self) -> Path:
        """A new folder."""
        return Path(tempfile.mkdtemp(prefix="compatible_"))

    def texts(self, **fields: Any) -> tuple[CRForSequenceClassification, Any]:
        """A classifier on a frozen backbone, and a batch for it."""
        torch.manual_seed(0)
        model, batch = text_model(self.backbone, **{"freeze_backbone": True, "feature_norm": "standardize", **fields})
        return model.eval(), batch

    def saved(self, **options: Any) -> tuple[Path, Any, torch.Tensor]:
        """A saved classifier, a batch, and its logits."""
        (model, batch), folder = self.texts(), self.folder
        model.save_pretrained(folder, **{"head_only": False, **options})
        self.tokenizer.save_pretrained(folder)
        return folder, batch, model(**batch).logits.detach()

    def head(self, **fields: Any) -> CRForFeatureClassification:
        """A head on six features, not yet fitted."""
        return feature_model(fit=False, in_features=6, **fields)

    def rows(self) -> list[dict[str, Any]]:
        """Tokenized texts with labels."""
        labelled = zip(TEXTS, LABELS.tolist(), strict=True)
        return [{**self.tokenizer(text), "labels": label} for text, label in labelled]

    def arguments(self, kind: Any = CRTrainingArguments, **fields: Any) -> Any:
        """Arguments of two steps on the CPU."""
        quiet = {"max_steps": 2, "use_cpu": True, "disable_tqdm": True, "report_to": "none", "logging_steps": 1}
        quiet |= {"output_dir": str(self.folder), "save_strategy": "no", "per_device_train_batch_size": 16}
        return kind(**{**quiet, **fields})

    def train(self, model: Any = None, rows: Any = None, options: Any = None, **fields: Any) -> CRTrainer:
        """A trainer after two steps of a head, or of the model given, with these fields of its arguments."""
        is_head = rows is None and model is None
        trainer = CRTrainer(
            model=self.head() if is_head else model,
            args=self.arguments(**fields),
            train_dataset=Rows(40) if rows is None else rows,
            eval_dataset=Rows(20, seed=2) if rows is None else rows,
            **(options or {}),
        )
        trainer.train()
        assert any("dreg" in entry for entry in trainer.state.log_history)
        assert all(torch.isfinite(value).all() for value in trainer.model.state_dict().values())
        return trainer


def page() -> str:
    """docs/compatibility.md."""
    text = (Path(__file__).resolve().parents[2] / "docs" / "compatibility.md").read_text(encoding="utf-8")
    head = text[: text.index("## ")]
    parts = []
    for area in dict.fromkeys(line.area for line in LINES):
        rows = [f"| {line.what} | {line.result} |" for line in LINES if line.area == area]
        parts.append("\n".join([f"## {area}", "", "| tried | result |", "|---|---|", *rows, ""]))
    return head + "\n".join(parts)
