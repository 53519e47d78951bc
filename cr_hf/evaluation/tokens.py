"""How sensitive a prediction is to each token: the gradient by the input embeddings, as numbers and as a page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files import write_text
from ..modeling import CRForSequenceClassification, padded_batches, prepare_tokenizer, tokenize
from .sensitivity import default_output, top_output
from .tasks import Task

TOKEN_BUDGET = 2048
STRONGEST = 0.85
LIKELIEST = 5
"""Classes whose probabilities a page shows."""


def token_gradient_norms(
    model: CRForSequenceClassification, tokenizer: Any, texts: Sequence[str], text_pairs: Sequence[str] | None = None
) -> Tensor:
    """L2 norm of the gradient of the margin by all input embeddings of each text together, shape (len(texts),).

    The token-embedding variant of `input_gradient_norms`: it sees the backbone too. 0 for a text without a token.
    """
    found = torch.zeros(len(texts))
    for rows, _, norms in _gradients(model, tokenizer, texts, text_pairs):
        found[rows] = torch.linalg.vector_norm(norms, dim=-1).float().cpu()
    return found


def _gradients(
    model: CRForSequenceClassification, tokenizer: Any, texts: Sequence[str], text_pairs: Sequence[str] | None = None
) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """Batches of the texts that have a token: row numbers, token ids and norms, both of shape (batch, length); a norm
    is 0 on padding.
    """
    own = prepare_tokenizer(tokenizer, model.config.max_length_for(tokenizer))
    encoded = tokenize(own, texts, text_pairs)
    kept = [row for row, ids in enumerate(encoded["input_ids"]) if ids]
    encoded = {name: [cells[row] for row in kept] for name, cells in encoded.items()}
    evaluating: Any = model.evaluating()
    for rows, batch in padded_batches(own, encoded, TOKEN_BUDGET):
        inputs = dict(batch.to(model.device))
        ids = inputs.pop("input_ids")
        with torch.enable_grad():
            embeddings = evaluating.get_input_embeddings()(ids).detach().requires_grad_()
            logits, _ = evaluating.classifier(evaluating.get_features(inputs_embeds=embeddings, **inputs))
            (gradient,) = torch.autograd.grad(top_output(logits, default_output(model.config)).sum(), embeddings)
        yield [kept[row] for row in rows], ids, torch.linalg.vector_norm(gradient, dim=-1) * inputs["attention_mask"]


def write_strips(
    model: CRForSequenceClassification,
    tokenizer: Any,
    texts: Sequence[str],
    path: Path,
    text_pairs: Sequence[str] | None = None,
) -> None:
    """Write a self-contained page with the words of each text, for light and dark screens.

    Args:
        model: a finished classifier.
        tokenizer: of the backbone.
        texts: to show; everything in them is escaped.
        path: of the HTML file.
        text_pairs: second texts, of a model of pairs; those beyond `texts` are left out.
    """
    from jinja2 import Environment, PackageLoader

    strips, task = [], Task.of(model.config)
    pairs = None if text_pairs is None else text_pairs[: len(texts)]
    scores = task.scores(model.predict_texts(texts, tokenizer, pairs))
    for index, (text, row) in enumerate(zip(texts, scores, strict=True)):
        own = [text] if pairs is None else [text, pairs[index]]
        found = _word_sensitivity(model, tokenizer, *own)
        peak = max((norm for _, norm in found), default=0.0)
        words = [(word, norm, STRONGEST * norm / peak if peak else 0.0) for word, norm in found]
        strips.append({"words": words, "answer": _answer(task, row), "peak": peak})
    environment = Environment(loader=PackageLoader("cr_hf.evaluation", "."), autoescape=True)
    page = environment.get_template("strips.html")
    write_text(path, page.render(strips=strips, output=default_output(model.config)))


def _answer(task: Task, scores: list[float]) -> str:
    """The label with the likeliest classes and their probabilities, or the predicted numbers."""
    if task.is_regression:
        return f"predicted: {task.label_of(scores)}"
    likeliest = sorted(zip(scores, task.label_names, strict=True), reverse=True)[:LIKELIEST]
    return f"predicted: {task.label_of(scores)} ({', '.join(f'{name} {score:.3f}' for score, name in likeliest)})"


def _word_sensitivity(
    model: CRForSequenceClassification, tokenizer: Any, text: str, text_pair: str | None = None
) -> list[tuple[str, float]]:
    """Words, the pieces of each joined by the L2 norm, without special tokens; tokens where words are not known."""
    columns = [text] if text_pair is None else [text, text_pair]
    own = prepare_tokenizer(tokenizer, model.config.max_length_for(tokenizer))
    found = next(_gradients(model, tokenizer, *([column] for column in columns)), None)
    if found is None:
        return []
    _, batch, norms = found
    ids, sizes = batch[0].tolist(), norms[0].tolist()
    special = {*own.all_special_ids} - {own.unk_token_id}
    groups: list[Any] = list(range(len(ids)))
    # As many characters as can make so many tokens; where even these are too few, the tokens stand alone.
    again = own(*(column[: 32 * len(ids)] for column in columns), truncation=True, max_length=own.model_max_length)
    if own.is_fast and again["input_ids"] == ids:
        groups = list(zip(again.sequence_ids(), again.word_ids(), strict=True))
    kept = [place for place, one in enumerate(ids) if one not in special]
    words = [list(places) for _, places in groupby(kept, lambda place: groups[place])]
    return [
        (own.decode([ids[place] for place in places]).strip(), math.hypot(*(sizes[place] for place in places)))
        for places in words
    ]
