"""The diagnostics of a run: a reference that is saved with it, and new texts held against that reference."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import datasets
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from transformers.utils import logging

from ..errors import DataError, RecipeError
from ..evaluation import (
    GRADIENT_RESAMPLES,
    TINY,
    Task,
    calibration,
    default_output,
    diagnose_features,
    fit_temperature,
    input_gradient_norms,
    permutation_interval,
    sample_rows,
    summarise_gradients,
    tail_ratios,
    token_gradient_norms,
)
from ..features import FeatureDataset, encode_texts, text_columns
from ..files import Json
from ..modeling import CRConfig, CRForSequenceClassification, CRHead, CRPreTrainedModel
from ..training import train_heads
from .build import sweep_head
from .recipe import Recipe
from .results import radius_rows

logger = logging.get_logger(__name__)

# Rows at most: of a split on features that are there, on features that have to be made, for the linear head, and of
# texts whose tokens are looked at. Norms kept for later comparison.
SPLIT_ROWS, ENCODED_ROWS, LINEAR_ROWS, TOKEN_ROWS, KEPT_NORMS = 5000, 2000, 10_000, 200, 2000
LINEAR_RATES = (1e-4, 3e-4, 1e-3, 3e-3)
# What the recipe of a linear head says in place of the run's own.
LINEAR: dict[str, Any] = {"hidden_sizes": [], "feature_norm": "standardize", "head_learning_rate": None}
LINEAR |= {"dreg_lambda": 0, "dreg_mode": "layer", "dreg_schedule": "constant", "dreg_lambda_end": None}
LINEAR |= {"eval_strategy": "epoch", "save_strategy": "epoch", "eval_delay": 0}
REFERENCE = "validation"
UNEVEN, SURE = 3.0, 0.1
"""A gradient tail ratio from which rows are called very differently sensitive (a linear head has about 1), and how far
from 1 a temperature may be before probabilities are called too sure, or not sure enough."""


# ---- the reference ----


def reference_diagnostics(
    recipe: Recipe,
    model: Any,
    tokenizer: Any,
    dataset: Mapping[str, Any],
    splits: Mapping[str, Any],
    logits: Mapping[str, NDArray[Any]],
) -> Json:
    """Diagnostics of a finished model on its validation and test rows, for `results.json`.

    Args:
        recipe: of the run.
        model: the finished classifier.
        tokenizer: of its backbone, `None` for a table.
        dataset: by split the rows.
        splits: by split what it was trained on; features that are there are used.
        logits: by split, of all rows; labels are those of `dataset`.

    Returns:
        `linear_head` (its learning rate, chosen on validation, and its rows), `splits` (by split what
        `diagnose_features` returns, with `token_gradients` and, for classes that exclude each other, `calibration`),
        `output` and `reference_norms` (gradient norms of validation rows, at most 2,000).
    """
    chosen = {name: _features(model, tokenizer, rows, splits[name], name) for name, rows in dataset.items()}
    linear, about = _linear_head(recipe, model.config, chosen)
    head, output = model.classifier, default_output(model.config)
    found: Json = {"linear_head": about, "output": output, "splits": {}}
    single = Task.of(model.config).is_single
    temperature = 1.0
    if single:
        temperature = fit_temperature(logits[REFERENCE], dataset[REFERENCE]["label"][:])
    for name, predicted in logits.items():
        features, labels = chosen[name]
        found["splits"][name] = diagnose_features(head, features, labels, linear)
        if recipe.kind == "texts":
            rows = dataset[name].select(sample_rows(len(dataset[name]), TOKEN_ROWS))[:]
            tokens = token_gradient_norms(model, tokenizer, rows["text"], rows.get("text_pair"))
            found["splits"][name]["token_gradients"] = summarise_gradients(tokens)
        if single:
            found["splits"][name]["calibration"] = calibration(predicted, dataset[name]["label"][:], temperature)
    reference = chosen[REFERENCE][0]
    norms = input_gradient_norms(head, reference[sample_rows(len(reference), KEPT_NORMS)], output)
    found["reference_norms"] = [float(f"{norm:.5g}") for norm in norms.tolist()]
    return found


def _features(model: Any, tokenizer: Any, rows: Any, split: Any, name: str) -> tuple[Tensor, Tensor]:
    """Features and labels of some rows of a split, a random sample where there are many."""
    if isinstance(split, FeatureDataset):
        order = sample_rows(len(split), LINEAR_ROWS if name == "train" else SPLIT_ROWS)
        features = np.asarray(split.features[split.indices[order]])
        return torch.from_numpy(features), torch.from_numpy(split.labels[order])
    if not isinstance(rows, datasets.Dataset):
        rows = datasets.Dataset.from_list(list(rows.take(ENCODED_ROWS)))
    rows = rows.select(sample_rows(len(rows), ENCODED_ROWS))
    features = encode_texts(model, tokenizer, *text_columns(rows), cache_dir=False, description=name)
    return torch.from_numpy(np.asarray(features)), torch.as_tensor(np.asarray(rows["label"][:]))


def _linear_head(
    recipe: Recipe, config: CRConfig, chosen: Mapping[str, tuple[Tensor, Tensor]]
) -> tuple[CRHead | None, Json | None]:
    """The linear head that the recipe trains on the same features, its learning rate chosen on validation.

    There is none for problems other than classification, and where a sweep cannot train as the recipe says.
    """
    if not Task.of(config).is_single:
        return None, None
    (features, labels), validation = chosen["train"], chosen[REFERENCE]
    try:
        heads = [sweep_head(recipe, config, {**LINEAR, "learning_rate": rate}) for rate in LINEAR_RATES]
        results = train_heads(
            features, labels, heads, validation_features=validation[0], validation_labels=validation[1]
        )
    except (RecipeError, ValueError) as error:
        logger.warning(f"no linear head is trained beside this one: {error}")
        return None, None
    best = max(results, key=lambda result: result.accuracy)
    if best.best_epoch is None:
        return None, None
    rate = best.setup.arguments.learning_rate
    return best.head(), {"learning_rate": rate, "rows": len(features), "validation_accuracy": best.accuracy}


# ---- new rows ----


def diagnose_new(model: CRPreTrainedModel, features: ArrayLike, reference: Json) -> Json:
    """Diagnostics of a finished run on features of new rows, which need no labels, beside its reference.

    Args:
        model: the finished classifier.
        features: what its head reads, shape (rows, in_features).
        reference: what `reference_diagnostics` returned.

    Returns:
        What `diagnose_features` returns, without the linear head, and `comparison`, see `compare_with_reference`.

    Raises:
        DataError: if there are fewer than two rows, or a feature is not finite.
    """
    rows = torch.from_numpy(np.asarray(features))
    if len(rows) < 2:
        raise DataError(f"{len(rows)} row cannot be compared with a reference: give two or more")
    found = diagnose_features(model.classifier, rows)
    norms = input_gradient_norms(model.classifier, rows, reference["output"]).cpu()
    return {**found, "comparison": compare_with_reference(norms, reference["reference_norms"])}


def diagnose_texts(
    model: CRForSequenceClassification,
    tokenizer: Any,
    texts: Sequence[str],
    reference: Json,
    text_pairs: Sequence[str] | None = None,
) -> Json:
    """`diagnose_new` of the features of texts or pairs, with `token_gradients` of 200 of them at most.

    Raises:
        DataError: if there is no text, or the features of one are not finite.
    """
    if not texts:
        raise DataError("there are no texts to diagnose: give at least one")
    found = diagnose_new(model, encode_texts(model, tokenizer, texts, text_pairs, cache_dir=False), reference)
    rows = sample_rows(len(texts), TOKEN_ROWS)
    pairs = None if text_pairs is None else [text_pairs[row] for row in rows]
    norms = token_gradient_norms(model, tokenizer, [texts[row] for row in rows], pairs)
    return {**found, "token_gradients": summarise_gradients(norms)}


def compare_with_reference(norms: ArrayLike, reference_norms: ArrayLike) -> dict[str, Json]:
    """Tail ratio and peak gradient of new rows beside what as many rows like those of the reference would give.

    Few rows have a lower peak and a less certain tail than many, and the reference is a sample too: the interval is
    that of the ratio of the two when all rows are dealt out anew, so that 5 % of samples of the same kind lie outside.

    Args:
        norms: gradient norms of the new rows, shape (rows,).
        reference_norms: those of the reference.

    Returns:
        `tail_ratio` and `peak`, each with `value, reference, ratio` (value over reference), the 95 % permutation
        `interval` of the value, and `outside` (`"above"`, `"below"` or `None`).
    """
    values, reference = np.asarray(norms, dtype=np.float64), np.asarray(reference_norms, dtype=np.float64)
    found = {}
    for name, measure in (("tail_ratio", tail_ratios), ("peak", np.max)):

        def ratio(new: Any, old: Any, axis: int, measure: Callable[..., Any] = measure) -> Any:
            return measure(new, axis=axis) / np.maximum(measure(old, axis=axis), TINY)

        value, usual = float(measure(values, axis=-1)), float(measure(reference, axis=-1))
        low, high = (usual * end for end in permutation_interval(values, reference, ratio, GRADIENT_RESAMPLES))
        # As a reader sees them: the reference is rounded.
        outside = "above" if value > high * (1 + 1e-4) else "below" if value < low * (1 - 1e-4) else None
        found[name] = {
            "value": value,
            "reference": usual,
            "ratio": value / usual if usual > 0 else None,
            "interval": [low, high],
            "outside": outside,
        }
    return found


# ---- in words ----


def diagnostic_rows(columns: dict[str, Json], output: str) -> list[list[str]]:
    """A table: one row a diagnostic, its name and a cell for each column (validation, test, new texts)."""
    every = list(columns.values())
    kinds = [kind for kind in ("margin", "logit", "loss") if any(kind in column["gradients"] for column in every)]
    rows = [["rows", *(f"{column['rows']:,}" for column in every)]]

    def add(title: str, values: Iterable[float | None]) -> None:
        rows.append([title, *map(_number, values)])

    def add_intervals(title: str, parts: Iterable[Json | None], name: str) -> None:
        rows.append([title, *(_with_interval(part, name) for part in parts)])

    for kind in kinds:
        add_intervals(f"gradient tail ratio, {kind}", (c["gradients"].get(kind) for c in every), "tail_ratio")
        if kind == output:
            add_intervals(f"  of a linear head, {kind}", (c["linear"] for c in every), "tail_ratio")
    add("non-linearity", (c["non_linearity"] for c in every))
    for kind in kinds:
        add_intervals(f"peak gradient, {kind}", (c["gradients"].get(kind) for c in every), "peak")
    add_intervals(f"tail ratio by token embeddings, {output}", (c.get("token_gradients") for c in every), "tail_ratio")
    add("curvature between examples", (c["curvature"] for c in every))
    *layers, readout = zip(*(c["dreg"] for c in every), strict=True)
    for number, values in enumerate(layers, start=1):
        add(f"DREG of layer {number}", values)
    add("DREG of the readout", readout)
    add(f"largest slope found, {every[0]['lipschitz_of']}", (c["largest_slope_found"] for c in every))
    add(f"Lipschitz bound, {every[0]['lipschitz_of']}", (c["lipschitz_bound"] for c in every))
    if any(c["lipschitz_bound_raw"] is not None for c in every):
        add("  by raw features", (c["lipschitz_bound_raw"] for c in every))
    certified = [c.get("certified") or {} for c in every]
    curves = {"certified accuracy": "accuracy", "class certain": "unchanged"}
    rows += radius_rows(
        {title: [found.get(name) for found in certified] for title, name in curves.items()},
        [((found or c)["rows"], c["rows"]) for found, c in zip(certified, every, strict=True)],
    )
    for name in ("expected_calibration_error", "temperature", "expected_calibration_error_at_temperature"):
        if any("calibration" in c for c in every):
            add(name.replace("_", " "), (c.get("calibration", {}).get(name) for c in every))
    return rows


def sensitivity_verdict(reference: Mapping[str, Any]) -> list[str]:
    """What the diagnostics of a finished run say, a sentence each: about test rows if there are some.

    Args:
        reference: returned by `reference_diagnostics`.
    """
    name, found = list(reference["splits"].items())[-1]
    ratio, linear = found["gradients"][reference["output"]]["tail_ratio"], found["linear"]
    beside = "" if linear is None else f", of a linear head {_number(linear['tail_ratio'])}"
    even = "alike" if ratio is None or ratio < UNEVEN else "very differently"
    lines = [f"Rows of {name} are {even} sensitive: the gradient tail ratio is {_number(ratio)}{beside}."]
    shares = (found.get("certified") or {}).get("accuracy") or {}
    if shares:
        radius, share = list(shares.items())[len(shares) // 2]
        lines.append(f"{100 * share:.0f} % of them are right, and stay so however their features move by {radius}.")
    if "calibration" in found:
        error, temperature = (found["calibration"][key] for key in ("expected_calibration_error", "temperature"))
        lean = "about as sure as they should be"
        if abs(temperature - 1) > SURE:
            lean = (
                f"{'too sure' if temperature > 1 else 'not sure enough'}, a temperature of {temperature:.2f} is best"
            )
        lines.append(
            f"Probabilities are off by {100 * error:.1f} points on average; on validation rows they are {lean}."
        )
    return lines


def comparison_lines(found: Json, what: str) -> list[str]:
    """What the comparison of new rows (`what` they are: texts, rows) with the reference says, in plain language."""
    rows, lines = found["rows"], []
    for name, title in (("tail_ratio", "gradient tail ratio"), ("peak", "peak gradient")):
        part = found["comparison"][name]
        low, high = part["interval"]
        ratio = "" if part["ratio"] is None else f", {part['ratio']:.2f} times that of validation"
        usual = f"{rows} {what} like those of validation give {low:.4g} to {high:.4g}"
        if part["outside"] is None:
            lines.append(f"The {title} of these {what} is {part['value']:.4g}{ratio}: nothing unusual, {usual}.")
            continue
        meaning = "some of them are more sensitive than usual" if part["outside"] == "above" else "they are more even"
        lines.append(
            f"The {title} of these {what} is {part['value']:.4g}{ratio}: {part['outside']} what is usual, for "
            f"{usual}. So {meaning}; they may differ from what the model was trained on."
        )
    return lines


def _with_interval(part: Json | None, name: str) -> str:
    if part is None or part[name] is None:
        return "-"
    low, high = part[f"{name}_interval"]
    return f"{_number(part[name])} [{_number(low)}, {_number(high)}]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
