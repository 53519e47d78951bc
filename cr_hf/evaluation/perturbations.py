"""Damage to texts: typing errors, lost and swapped words, changed case.

Every perturbation is seeded: the same text, kind, severity and seed give the same result on any machine, and a higher
severity damages what a lower one did and more. This file needs nothing else of the package: a Space's page carries it.
"""

from __future__ import annotations

import math
import random

SEVERITIES = (1, 2, 3, 4, 5)
# Shares of the letters (typos, case) or of the words (drop, swap) that are touched.
TEXT_RATES = {
    "typos": (0.02, 0.05, 0.1, 0.15, 0.2),
    "drop": (0.05, 0.1, 0.2, 0.3, 0.5),
    "swap": (0.1, 0.2, 0.4, 0.6, 0.8),
    "case": (0.05, 0.1, 0.25, 0.5, 1.0),
}
KEYBOARD = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


def _keys_beside(key: str) -> str:
    """The letters around one on a keyboard, whose rows are each half a key further right."""
    places = {
        letter: (row, column + row / 2) for row, keys in enumerate(KEYBOARD) for column, letter in enumerate(keys)
    }
    return "".join(other for other in places if other != key and math.dist(places[key], places[other]) < 1.2)


BESIDE = {letter: _keys_beside(letter) for keys in KEYBOARD for letter in keys}


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
        ValueError: if the kind is unknown, or the severity is not 1 to 5.
    """
    if kind not in TEXT_RATES or severity not in SEVERITIES:
        raise ValueError(f"{kind} of severity {severity} is not allowed: use {', '.join(TEXT_RATES)} of 1 to 5")
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
