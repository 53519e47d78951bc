"""How accuracy falls as texts get worse.

Every perturbation is seeded: the same text, kind, severity and seed give the same result on any machine, and a higher
severity damages what a lower one did and more.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, nearest
from .statistics import bootstrap_interval

SEVERITIES = (1, 2, 3, 4, 5)
# Shares of the letters (typos, case) or of the words (drop, swap) that are touched.
TEXT_RATES = {
    "typos": (0.02, 0.05, 0.1, 0.15, 0.2),
    "drop": (0.05, 0.1, 0.2, 0.3, 0.5),
    "swap": (0.1, 0.2, 0.4, 0.6, 0.8),
    "case": (0.05, 0.1, 0.25, 0.5, 1.0),
}
KEYBOARD = ("qwertyuiop", "asdfghjkl", "zxcvbnm")

Hits = NDArray[np.bool_]


def _keys_beside(key: str) -> str:
    """The letters around one on a keyboard, whose rows are each half a key further right."""
    places = {
        letter: (row, column + row / 2) for row, keys in enumerate(KEYBOARD) for column, letter in enumerate(keys)
    }
    return "".join(other for other in places if other != key and math.dist(places[key], places[other]) < 1.2)


BESIDE = {letter: _keys_beside(letter) for keys in KEYBOARD for letter in keys}


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


def perturb_text(text: str, kind: str, severity: int, seed: int = 0) -> str:
    """One text, damaged: a pure function of its arguments.

    Args:
        text: any; where there is nothing to damage (no letter, one word) it is returned as it is.
        kind: `"typos"` (a letter is missed, doubled, swapped with the next or mistaken for one beside it on an English
            keyboard), `"drop"` (words are left out, never all), `"swap"` (neighbouring words change places) or
            `"case"` (letters change their case; an uncased tokenizer does not see it).
        severity: 1 to 5, see `TEXT_RATES`.
        seed: of the choice of letters or words.

    Raises:
        DataError: if the kind is unknown.
        ValueError: if the severity is not 1 to 5.
    """
    check_kinds([kind])
    if severity not in SEVERITIES:
        raise ValueError(f"severity={severity} is not allowed: use 1 to 5")
    rate = TEXT_RATES[kind][severity - 1]
    # Without the severity: a higher one goes on where a lower one ended.
    generator = random.Random(f"{seed}\0{kind}\0{text}")
    if kind in ("typos", "case"):
        letters = [place for place, character in enumerate(text) if character.isalpha()]
        generator.shuffle(letters)
        characters = list(text)
        for place in letters[: math.ceil(rate * len(letters))]:
            if kind == "case":
                characters[place] = characters[place].swapcase()
            else:
                _mistype(characters, place, generator)
        return "".join(characters)
    words = text.split()
    order = list(range(len(words)))
    generator.shuffle(order)
    count = math.ceil(rate * len(words))
    if kind == "drop":
        dropped = set(order[: min(count, len(words) - 1)]) if words else set()
        return " ".join(word for place, word in enumerate(words) if place not in dropped) if dropped else text
    moved: set[int] = set()
    for place in order:
        if len(moved) < count and place + 1 < len(words) and not moved & {place, place + 1}:
            words[place], words[place + 1] = words[place + 1], words[place]
            moved |= {place, place + 1}
    return " ".join(words) if moved else text


def _mistype(characters: list[str], place: int, generator: random.Random) -> None:
    """One typing error at a letter; every branch draws equally often, so that severities agree on what they share."""
    letter, mistake, choice = characters[place], generator.randrange(4), generator.random()
    beside = BESIDE.get(letter.lower(), "")
    if mistake == 0:
        characters[place] = ""
    elif mistake == 1 and beside:
        key = beside[int(choice * len(beside))]
        characters[place] = key.upper() if letter.isupper() else key
    elif mistake == 2 and place + 1 < len(characters) and characters[place + 1].isalpha():
        characters[place], characters[place + 1] = characters[place + 1], letter
    else:
        characters[place] = letter * 2


def robustness_curves(clean: Hits, perturbed: Mapping[str, Sequence[Hits]]) -> dict[str, Any]:
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
) -> dict[str, Any]:
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
