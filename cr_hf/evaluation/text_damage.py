"""How accuracy falls as texts get worse."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, nearest
from ..files import Json
from .perturbations import SEVERITIES, TEXT_RATES, perturb_text
from .statistics import bootstrap_interval

Hits = NDArray[np.bool_]


def check_kinds(kinds: Sequence[str]) -> None:
    """Refuse a kind of text perturbation that there is not.

    Raises:
        DataError: naming it and what there is.
    """
    for kind in kinds:
        if kind not in TEXT_RATES:
            raise DataError(
                f"perturbation {kind!r} is unknown{nearest(kind, TEXT_RATES)}: use {', '.join(TEXT_RATES)}"
            )


def robustness_curves(clean: Hits, perturbed: Mapping[str, Sequence[Hits]]) -> Json:
    """Accuracy by severity, and the mean accuracy over all kinds and severities ("mean corruption accuracy").

    Args:
        clean: whether each row is right as it is, shape (rows,).
        perturbed: of each kind, the same for every severity in order.

    Returns:
        JSON-able: `rows`, `clean_accuracy`, `mean_accuracy`, and per kind `accuracies`, `mean_accuracy` and `change`
        (its mean minus clean) with the paired 95 % bootstrap interval over rows.
    """
    kinds = {}
    for kind, hits in perturbed.items():
        change = np.mean(hits, axis=0) - clean
        kinds[kind] = {
            "accuracies": [float(np.mean(severity)) for severity in hits],
            "mean_accuracy": float(np.mean(hits)),
            "change": float(change.mean()),
            "change_interval": list(bootstrap_interval(change)) if len(change) > 1 else [-1.0, 1.0],
        }
    return {
        "rows": len(clean),
        "clean_accuracy": float(np.mean(clean)),
        "mean_accuracy": float(np.mean([kind["mean_accuracy"] for kind in kinds.values()])),
        "kinds": kinds,
    }


def text_robustness(
    is_right: Callable[[list[str], list[str] | None], Hits],
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    kinds: Sequence[str] = tuple(TEXT_RATES),
    seed: int = 0,
) -> Json:
    """Accuracy on perturbed texts.

    Args:
        is_right: from texts (and their pairs) to whether each row is classified right, shape (rows,).
        texts: as they are.
        pairs: second texts, perturbed too; `None` for single texts.
        kinds: of perturbation, see `perturb_text`.
        seed: of the perturbations.

    Returns:
        What `robustness_curves` returns, and the `seed`.
    """
    check_kinds(kinds)

    def damaged(kind: str, severity: int) -> Hits:
        first = [perturb_text(text, kind, severity, seed) for text in texts]
        second = None if pairs is None else [perturb_text(text, kind, severity, seed) for text in pairs]
        return is_right(first, second)

    clean = is_right(list(texts), None if pairs is None else list(pairs))
    found = {kind: [damaged(kind, severity) for severity in SEVERITIES] for kind in kinds}
    return {"seed": seed, **robustness_curves(clean, found)}
