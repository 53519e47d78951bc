"""What is asked of a finished run: metrics of other data, predictions, diagnostics of new rows.

New rows are read as the run's recipe says that its own were: columns, pairs, encoding, escapes, separator, header.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.utils import logging

from .. import evaluation
from ..data import DataConfig, Row, load_rows, load_tables, read_inputs, split_named, table_features
from ..errors import DataError
from ..features import classify_features, cut_note, encode_texts, text_columns
from ..files import Json
from ..modeling import TokenizerError, certified_radius
from .run import Run

logger = logging.get_logger(__name__)

CHUNK_ROWS, CHUNK_CHARACTERS = 4096, 1_000_000
"""Rows predicted at once: enough to sort by length, little enough to stream files of any size."""

HTML_TEXTS = 50


@dataclass(frozen=True)
class Prediction:
    """The answer to one row.

    Args:
        shown: the text, or the number of the row of a table.
        record: the row's own columns, in their order.
        scores: one probability a class, or the predicted numbers.
        radius: how far the normalised features can move before the class can change, where it was asked for.
    """

    shown: str
    record: dict[str, Any]
    scores: list[float]
    radius: float | None = None


def predict_run(
    run: Run, source: Sequence[str] | Iterable[str], overrides: Mapping[str, Any] | None = None, radius: bool = False
) -> Iterator[Prediction]:
    """Predictions of a finished run, one for each row in their order, in constant memory for texts.

    Args:
        run: the run.
        source: texts or paths of files, or an open handle with one text a line; for the run of a table one path.
        overrides: fields of `DataConfig` that replace those of the run's recipe.
        radius: give every prediction its certified radius, see `CRForSequenceClassification.certified_radius`.

    Raises:
        DataError: naming the file, the row and the mend; if a radius is asked for where there is none.
    """
    if radius and not run.task.is_single:
        raise DataError(
            f"{run.path} has no classes of which one is right, and so no certified radius: leave --radius out"
        )
    if run.kind == "table":
        features, records = run.table_rows(list(source), overrides)
        answers = _answers(run, features, radius)
        for number, (record, answer) in enumerate(zip(records, answers, strict=True), 1):
            yield Prediction(f"row {number}", record or {"row": number}, *answer)
        return
    config = run.data(overrides)
    note = None
    for chunk in _chunks(read_inputs(source, config)):
        texts, pairs = _columns(chunk, config)
        if note is None and (note := cut_note(run.model, run.tokenizer, texts, pairs)):
            logger.warning(note)
        try:
            if radius:
                answers = _answers(run, encode_texts(run.model, run.tokenizer, texts, pairs, cache_dir=False), radius)
            else:
                logits = run.model.predict_texts(texts, run.tokenizer, pairs)
                answers = ((scores, None) for scores in run.task.scores(logits))
        except TokenizerError as error:
            raise DataError(f"{chunk[error.first].place()}: {error}") from error
        for input_row, answer in zip(chunk, answers, strict=True):
            yield Prediction(input_row.text, input_row.record, *answer)


def _answers(run: Run, features: Any, radius: bool) -> Iterator[tuple[list[float], float | None]]:
    """Scores and, if asked for, certified radius of each row of features."""
    scores = run.task.scores(classify_features(run.model, features))
    head, rows = run.model.classifier, torch.from_numpy(features)
    return zip(scores, certified_radius(head, rows).tolist() if radius else [None] * len(scores), strict=True)


def _columns(rows: Sequence[Row], config: DataConfig) -> tuple[list[str], list[str] | None]:
    """Texts and, of pairs, second texts."""
    pairs = None if config.text_pair_column is None else [row.text_pair or "" for row in rows]
    return [row.text for row in rows], pairs


def _chunks(rows: Iterator[Row]) -> Iterator[list[Row]]:
    chunk: list[Row] = []
    characters = 0
    for row in rows:
        chunk.append(row)
        characters += len(row.text) + len(row.text_pair or "")
        if len(chunk) == CHUNK_ROWS or characters >= CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def evaluate_run(
    run_dir: str | Path,
    split: str = "test",
    data_overrides: Mapping[str, Any] | None = None,
    perturb: Sequence[str] = (),
    seed: int = 0,
) -> Json:
    """Metrics of a finished run on a split of its data, or of other data with the same classes.

    Args:
        run_dir: a finished run directory.
        split: `"train"`, `"validation"` or `"test"`, or another word for one of them, such as `"dev"`.
        data_overrides: fields of `DataConfig` that replace those of the run's recipe.
        perturb: kinds of text perturbation, see `perturb_text`.
        seed: of the perturbations.

    Returns:
        What `Task.measure` returns; `certified_accuracy` by radius and its `certified_rows`, where one class is right
        (see `certified_shares`); and with `perturb` also `robustness`, what `text_robustness` returns.

    Raises:
        CheckpointError: if the run is not finished.
        DataError: if the data have no such split, or other classes than the model, or perturbed texts are asked for
            of a model that has no classes.
    """
    evaluation.check_kinds(perturb)
    split = split_named(split)
    run = Run(run_dir)
    data, task = run.data(data_overrides), run.task
    if data.label_names is None and not task.is_regression:
        data = dataclasses.replace(data, label_names=list(task.label_names))
    if perturb and task.is_regression:
        raise DataError(f"{run_dir} predicts numbers, and robustness is measured in accuracy: leave --perturb out")
    columns: list[Any] = []
    if run.kind == "table":
        if perturb:
            raise DataError(f"{run_dir} is the run of a table, and --perturb damages texts: leave it out")
        loaded = load_tables(data, [split], run.schema)
        features = run.row_features(table_features(loaded[split]))
    else:
        loaded = load_rows(data, task.problem_type, splits=[split])
        columns = text_columns(loaded[split])
        features = _encoded(run, columns, split)
    rows = loaded[split]
    if data.label_start is None and loaded.understood.reading.get("label_start") == 0:
        logger.warning(f"the labels are numbers and count the classes from 0: 0 is {task.label_names[0]!r}")
    labels = np.asarray(rows["label"][:])
    metrics = task.measure(classify_features(run.model, features).numpy(), labels)
    certified = evaluation.certified_shares(run.model.classifier, torch.from_numpy(features), torch.from_numpy(labels))
    if certified is not None:
        metrics["certified_accuracy"], metrics["certified_rows"] = certified["accuracy"], certified["rows"]
    if perturb:

        def is_right(texts: list[str], pairs: list[str] | None) -> Any:
            return task.right_rows(run.model.predict_texts(texts, run.tokenizer, pairs).numpy(), labels)

        texts, pairs, *_ = [*columns, None]
        metrics["robustness"] = evaluation.text_robustness(is_right, texts, pairs, perturb, seed)
    return metrics


def _encoded(run: Run, columns: list[Any], split: str) -> NDArray[np.float32]:
    """Features of a split; what is cut of its texts is said."""
    if note := cut_note(run.model, run.tokenizer, *columns):
        logger.warning(f"{split}: {note}")
    # Training kept those of a frozen backbone; those of a trained one are of this run alone.
    cache_dir: Any = None if run.model.config.freeze_backbone else False
    return np.array(encode_texts(run.model, run.tokenizer, *columns, cache_dir=cache_dir))


def diagnose_run(
    run: Run, source: Sequence[str], overrides: Mapping[str, Any] | None = None, html: Path | None = None
) -> Json:
    """Diagnostics of new rows beside the run's reference.

    Args:
        run: the run.
        source: texts or paths of files; for the run of a table one path.
        overrides: fields of `DataConfig` that replace those of the run's recipe.
        html: a page to write that shows how sensitive the predictions of the first texts are to each word.

    Returns:
        What `diagnose_new` returns.

    Raises:
        CheckpointError: if the run has no reference.
        DataError: naming the file, the row and the mend.
    """
    from .diagnose import diagnose_new, diagnose_texts  # what trains, for which a prediction need not wait

    if run.kind == "table":
        if html is not None:
            raise DataError(f"--html {html}: {run.path} is the run of a table, which has no tokens")
        return diagnose_new(run.model, run.table_rows(source, overrides)[0], run.reference)
    config = run.data(overrides)
    texts, pairs = _columns(list(read_inputs(source, config)), config)
    found = diagnose_texts(run.model, run.tokenizer, texts, run.reference, pairs)
    if html is not None:
        evaluation.write_strips(run.model, run.tokenizer, texts[:HTML_TEXTS], html, pairs)
    return found
