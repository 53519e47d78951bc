"""What a user trained for: how good each class is, what is confused, and whether something simpler is as good."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_fscore_support

from ..evaluation import Task
from ..files import Json, open_whole
from ..modeling import CRPreTrainedModel
from .baselines import ON_WORDS, Beside, beside_head
from .directory import ERRORS

SHOWN_CLASSES, SHOWN_ERRORS, SHOWN_CHARACTERS = 12, 10, 100
THIS = "this head"


@dataclass(frozen=True)
class ClassScores:
    """A class on the measured rows; `support` of them have it. A share whose denominator is 0 is 0."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class Answer:
    """The quality of a trained classifier, as `results.json` has it under `answer`.

    Args:
        split: test, or validation where there is no test split.
        rows: of the split.
        accuracy: share of rows; where a row may have several classes, of rows whose classes are all right.
        parameters: of the head.
        classes: in their order.
        confusion: rows by true class and predicted class; `None` where a row may have several.
        beside: simpler classifiers on the same rows.
        left_out: sentences on those that were not fitted.
    """

    split: str
    rows: int
    accuracy: float
    parameters: int
    classes: list[ClassScores]
    confusion: list[list[int]] | None = None
    beside: list[Beside] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, results: Mapping[str, Any]) -> Answer | None:
        """That of a run's `results.json`; `None` of runs that predict numbers, and of those of version 0.1.0."""
        values = results.get("answer")
        if values is None:
            return None
        classes = [ClassScores(**one) for one in values["classes"]]
        return cls(**{**values, "classes": classes, "beside": [Beside(**one) for one in values["beside"]]})


def answer(
    model: CRPreTrainedModel,
    dataset: Mapping[str, Any],
    splits: Mapping[str, Any],
    predictions: Mapping[str, NDArray[Any]],
    seconds: float,
    folder: Path,
) -> Json | None:
    """What `results.json` holds under `answer`; the worst errors are written to `worst_errors.jsonl` in the folder.

    Args:
        model: the trained classifier; of one that predicts numbers there is no answer.
        dataset: by split the rows.
        splits: by split what the head was trained on.
        predictions: logits by split, shape (rows, num_labels).
        seconds: that the run took, see `beside_head`.
        folder: of the run.
    """
    task = Task.of(model.config)
    if task.is_regression:
        return None
    split = "test" if "test" in predictions else "validation"
    logits, labels = predictions[split], np.asarray(dataset[split]["label"][:])
    right = task.right_rows(logits, labels)
    names, count = list(task.label_names), logits.shape[-1]
    truth = np.eye(count, dtype=bool)[labels] if task.is_single else labels > 0.5
    predicted = np.eye(count, dtype=bool)[logits.argmax(-1)] if task.is_single else logits > 0
    of_classes = (one.tolist() for one in precision_recall_fscore_support(truth, predicted, zero_division=0))
    _write_worst(folder / ERRORS, task, logits, truth, right, dataset[split])
    beside, left_out = beside_head(right, split, dataset, splits, seconds) if task.is_single else ([], [])
    return asdict(
        Answer(
            split=split,
            rows=len(labels),
            accuracy=float(right.mean()),
            parameters=sum(parameter.numel() for parameter in model.classifier.parameters()),
            classes=[ClassScores(*one) for one in zip(names, *of_classes, strict=True)],
            confusion=(truth.astype(int).T @ predicted.astype(int)).tolist() if task.is_single else None,
            beside=beside,
            left_out=left_out,
        )
    )


def _write_worst(
    path: Path, task: Task, logits: NDArray[Any], truth: NDArray[np.bool_], right: NDArray[np.bool_], rows: Any
) -> None:
    """The wrong rows whose true classes got the least probability, with their texts: for the user's eyes alone."""
    scores = np.array(task.scores(torch.from_numpy(np.asarray(logits, np.float32))))
    of_truth = np.where(truth, scores, 1 if task.is_single else 1 - scores).min(-1)
    wrong = np.flatnonzero(~right)
    with open_whole(path) as handle:
        for row in wrong[np.argsort(of_truth[wrong], kind="stable")][:SHOWN_ERRORS].tolist():
            texts = {name: rows[row][name] for name in ("text", "text_pair") if name in rows.column_names}
            found = {
                "row": row + 1,
                "label": task.label_of(truth[row].astype(float).tolist()),
                "predicted": task.label_of(scores[row].tolist()),
                "probability_of_label": round(float(of_truth[row]), 4),
                **texts,
            }
            handle.write(json.dumps(found, ensure_ascii=False) + "\n")


# ---- in words and tables: a header, then rows ----


def class_rows(found: Answer) -> list[list[str]]:
    """Precision, recall and F1 of each class; of many, those with the lowest F1."""
    shown = found.classes
    if len(shown) > SHOWN_CLASSES:
        shown = sorted(shown, key=lambda one: one.f1)[:SHOWN_CLASSES]
    first = "class" if shown is found.classes else f"class ({len(shown)} of {len(found.classes)}, lowest F1)"
    cells = [
        [one.name, *(f"{value:.3f}" for value in (one.precision, one.recall, one.f1)), f"{one.support:,}"]
        for one in shown
    ]
    return [[first, "precision", "recall", "F1", f"rows of {found.split}"], *cells]


def confusion_rows(found: Answer) -> list[list[str]]:
    """True classes by predicted ones; of many classes, the pairs that are confused most; empty where there is none."""
    if found.confusion is None:
        return []
    names, counts = [one.name for one in found.classes], np.array(found.confusion)
    if len(names) <= SHOWN_CLASSES:
        return [["true, predicted:", *names], *([n, *map(str, row)] for n, row in zip(names, counts, strict=True))]
    np.fill_diagonal(counts, 0)
    pairs = [divmod(int(place), len(names)) for place in (-counts).ravel().argsort(kind="stable")[:SHOWN_CLASSES]]
    cells = [[names[true], names[called], str(counts[true, called])] for true, called in pairs if counts[true, called]]
    return [["true", "predicted", "rows"], *cells]


def worst_lines(run_dir: Path) -> list[str]:
    """The worst errors of a run out of its local file, a line each; none where the file is not there."""
    path = run_dir / ERRORS
    lines = []
    for one in map(json.loads, path.read_text(encoding="utf-8").splitlines() if path.is_file() else []):
        text = " / ".join(" ".join(one[name].split()) for name in ("text", "text_pair") if name in one)
        shown = text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 3] + "..."
        what = (
            f"row {one['row']}, {one['label']!r} taken for {one['predicted']!r} (p {one['probability_of_label']:.3f})"
        )
        lines.append(f"{what}: {shown}" if shown else what)
    return lines


def beside_sentence(found: Answer) -> str:
    """The head beside the simpler classifiers, and which of them to use; empty where there is nothing to say."""
    if not found.beside:
        return " ".join(found.left_out)
    chosen = "" if found.split == "test" else ", which also chose the settings"
    parts = [f"{THIS} {100 * found.accuracy:.1f} %"]
    for one in found.beside:
        low, high = (100 * end for end in one.interval)
        differs = f"difference {100 * one.difference:+.1f} [{low:+.1f}, {high:+.1f}]"
        parts.append(f"{one.name} {100 * one.accuracy:.1f} % ({differs if low < high else 'right on the same rows'})")
    verdicts = [f"{one.name} is better: use it" for one in found.beside if one.interval[1] < 0]
    alike = [one for one in found.beside if one.interval[0] <= 0 <= one.interval[1]]
    if alike:
        # Words need no encoder, which is far larger than any head.
        sizes = {one.name: 0 if one.name == ON_WORDS else one.parameters for one in alike}
        smallest = min({THIS: found.parameters, **sizes}.items(), key=lambda item: item[1])[0]
        why = ", which needs no encoder" if smallest == ON_WORDS else ""
        together = " and ".join([", ".join([THIS, *sizes][:-1]), [*sizes][-1]])
        verdicts.append(f"{together} are not to be told apart; the smallest is {smallest}{why}")
    verdicts += [f"{THIS} is better than {one.name}" for one in found.beside if one.interval[0] > 0]
    compared = f"Accuracy on {found.split} ({found.rows:,} rows{chosen}): {', '.join(parts)}: {'; '.join(verdicts)}."
    return " ".join([compared, *found.left_out])
