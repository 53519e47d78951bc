"""What a column of labels means: the one rule, for files, tables, streams, data sets and evaluation on other data.

1. A label is read as written, without spaces around it; numbers compare as numbers (1, 1.0, +1 and 01 are one class),
   and True, true and TRUE are one.
2. Without `data.label_names` the classes are the labels of train: numbers by value, then words by alphabet.
3. A column whose type names its classes (`ClassLabel`) holds the numbers of these names, from 0, in each file or split
   by its own type; as many other `data.label_names` are new names for them.
4. With label names, labels that are all whole numbers, none of them a name, count the names: from 0 if 0 occurs; from
   1 if 0 does not and the number of classes does, which is said. If neither does, `data.label_start` decides.
5. Otherwise every label is a name. A label that is none is refused with its row; nothing is chosen by majority.
6. Words for a missing label (empty, nan, NA, N/A, null, None, ...) are no class unless `data.label_names` lists them:
   refused, or left out with a count under `data.missing_labels: drop`.
7. Labels that differ only in what nobody sees (spaces, invisible characters, Unicode form, letters of
   Cyrillic or Greek) are refused; those that differ in case, quotes or width are named with their counts.
8. Line breaks, escape sequences, quotes around a label and labels of more than 200 characters are refused.
9. Several labels a text are a list, JSON or a list of Python in a cell, labels with `data.label_separator` between
   them, a list of zeros and ones in every row, or columns of zeros and ones named as `data.label_columns`.
10. Numbers to predict are finite; a column of many different fractions is refused as classes.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..errors import DataError, RecipeError, nearest
from .config import NUMBER, DataConfig
from .label_cells import LISTS, NUMBERS, SEVERAL, Place, is_whole, key_of, label_order, written

UNSURE = {"unlabeled", "unlabelled", "unknown", "undefined", "missing", "todo", "tbd", "?", "-", "--", "not labeled"}
MANY_FRACTIONS, MANY_CLASSES = 10, 10
UNSEEN = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")
"""Characters that show nothing, beside those of the category Cf."""
# Letters of Cyrillic and Armenian, then of Greek.
LATIN = str.maketrans(
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0455\u0458\u0585"
    "\u0410\u0412\u0415\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0425"
    "\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7\u03bf",
    "aeopcyxisjoABEKMHOPCTXABEZHIKMNOPTYXo",
)


@dataclass
class Seen:
    """The labels of a split, each as it is written, with its number of rows and the place of the first."""

    counts: Counter[str] = field(default_factory=Counter)
    first_place: dict[str, str] = field(default_factory=dict)
    rows: int = 0
    lengths: set[int] = field(default_factory=set)

    @classmethod
    def of(cls, parts: Iterable[Seen], spelling: Callable[[str], str] = str) -> Seen:
        """The labels of several splits together, under the spelling that is given for each."""
        found = cls()
        for part in parts:
            found.rows += part.rows
            for label, count in part.counts.items():
                found.counts[spelling(label)] += count
                found.first_place.setdefault(spelling(label), part.first_place[label])
        return found

    def add(self, labels: Sequence[str], place: Place) -> None:
        """Count the labels of a row."""
        self.rows += 1
        self.lengths.add(len(labels))
        for label in labels:
            self.counts[label] += 1
            if label not in self.first_place:
                self.first_place[label] = place()


@dataclass(frozen=True)
class Classes:
    """The classes of a column.

    Args:
        names: in order.
        ids: class by the key of a label, see `key_of`.
        start: number of the first class, where labels are numbers that count the names.
        one_hot: whether every row is a zero or a one for each class.
    """

    names: list[str]
    ids: dict[str, int]
    start: int | None = None
    one_hot: bool = False

    def id_of(self, label: str, place: Place, split: str = "train") -> int:
        """The class of a label, which is refused if it is none."""
        found = self.ids.get(key_of(label))
        if found is None:
            known = self.names if self.start is None else list(self.ids)
            raise DataError(
                f"{place()}: label {label!r} of {split} is not one of the {len(known)} classes {known[:20]}"
                f"{nearest(label, known)}: mend the row, or set data.label_names"
            )
        return found

    def encode(self, labels: Sequence[str], place: Place) -> list[float]:
        """A row's labels as zeros and ones, shape (num_labels,)."""
        if self.one_hot:
            return [float(key_of(label)) for label in labels]
        found = {self.id_of(label, place) for label in labels}
        return [float(index in found) for index in range(len(self.names))]


def find_classes(
    seen: Mapping[str, Seen],
    names: list[str] | None = None,
    label_start: int | None = None,
    several: bool = False,
) -> tuple[Classes, list[str]]:
    """The classes that labels mean, by the rule at the head of this module.

    Args:
        seen: by split the labels of its rows.
        names: of the classes, in order; None takes them from train.
        label_start: `data.label_start`.
        several: whether a row may have several labels.

    Returns:
        The classes, and notes to tell the user.

    Raises:
        DataError: naming the first row whose label does not fit.
    """
    notes: list[str] = []
    _refuse_invisible(seen, names, notes)
    if names is None:
        classes = _from_train(seen, several, notes)
    else:
        ids = {key_of(name): index for index, name in enumerate(names)}
        if len(ids) < len(names):
            raise DataError(f"data.label_names={names[:20]}: two of them are the same number: give each class a name")
        start = _start(seen, names, ids, label_start, notes)
        one_hot = several and all(
            part.lengths == {len(names)} and set(map(key_of, part.counts)) <= {"0", "1"} for part in seen.values()
        )
        by_number = {str(index + (start or 0)): index for index in range(len(names))}
        classes = Classes(names, ids if start is None else by_number, start, one_hot)
    for split, part in seen.items():
        for label, place in part.first_place.items():
            if not classes.one_hot:
                classes.id_of(label, place.__str__, split)
    return classes, notes


def _from_train(seen: Mapping[str, Seen], several: bool, notes: list[str]) -> Classes:
    """The classes that stand in train, refused where they are unlikely to be classes."""
    reference = [seen["train"]] if "train" in seen else list(seen.values())
    together = Seen.of(reference, key_of)
    first = together.first_place
    spellings: dict[str, set[str]] = defaultdict(set)
    for label in Seen.of(reference).counts:
        spellings[key_of(label)].add(label)
    if not spellings:
        raise DataError("no row of train has a class: check data.label_column")
    is_number = {key: NUMBER.fullmatch(key) is not None for key in spellings}
    fractions = [key for key in spellings if NUMBER.fullmatch(key.replace(",", ".", 1)) and not is_whole(key)]
    _refuse_lists(spellings, first, several, fractions)
    are_amounts = fractions and all(number or key in fractions for key, number in is_number.items())
    if are_amounts and len(spellings) > MANY_FRACTIONS:
        raise DataError(
            f"{first[fractions[0]]}: the labels look numeric ({len(spellings)} different numbers, such as "
            f"{fractions[0]}): set problem_type: {NUMBERS}, another data.label_column, or data.label_names"
        )
    booleans = [key for key in spellings if key in ("true", "false")]
    if booleans and any(is_number.values()):
        raise DataError(f"{first[booleans[0]]}: the label {booleans[0]!r} among numbers: write labels in one way")
    words = [key for key, number in is_number.items() if not number]
    if words and len(words) < len(spellings):
        notes.append(f"some labels are numbers and others words, such as {words[0]!r} ({first[words[0]]})")
    if not several and together.rows == len(spellings) > MANY_CLASSES:
        raise DataError(
            f"{next(iter(first.values()))}: every row of train has a label of its own, such as "
            f"{next(iter(spellings))!r}: check data.label_column, or set data.label_names"
        )
    # A class is called as it is written, if that is in one way; of a number only zeros in front of it are kept.
    as_written = {key: min(found) for key, found in spellings.items() if len(found) == 1}
    names = [name if not is_number[key] or name.isdecimal() else key for key, name in as_written.items()]
    names = sorted([*names, *(key for key in spellings if key not in as_written)], key=label_order)
    return Classes(names, {key_of(name): index for index, name in enumerate(names)})


def _refuse_lists(
    spellings: Mapping[str, set[str]], first: Mapping[str, str], several: bool, fractions: Sequence[str]
) -> None:
    """Refuse labels that are lists, or whose parts are labels too or, in a single label, parts of others."""
    marks = {key: next((mark for mark in ",;|" if mark in key), "") for key in spellings}
    split = {key: [key_of(part.strip()) for part in key.split(mark)] if mark else [] for key, mark in marks.items()}
    words = {} if several else Counter(part for key in split for part in set(split[key]) if key not in fractions)
    for key, parts in split.items():
        is_list, mark = key[0] != "(" and LISTS.fullmatch(key), marks[key]
        known = [part in spellings or not part or words.get(part, 0) > 1 for part in parts]
        if is_list or (any(known) if several else known and all(known)):
            how = "" if is_list else f" and data.label_separator={mark!r}, or list it in data.label_names"
            raise DataError(
                f"{first[key]}: the label {key!r} looks like several labels: set problem_type: {SEVERAL}{how}"
            )


def _start(
    seen: Mapping[str, Seen], names: list[str], ids: Mapping[str, int], label_start: int | None, notes: list[str]
) -> int | None:
    """The number of the first class; None where labels are names."""
    together = Seen.of(seen.values(), key_of)
    first = together.first_place
    if not first or not all(map(is_whole, first)) or set(first) & set(ids) or all(map(is_whole, ids)):
        return None
    if label_start is not None:
        return label_start
    lowest, highest, size = min(map(int, first)), max(map(int, first)), len(names)
    if lowest == 0 and highest < size:
        return 0
    if lowest >= 1 and highest == size:
        notes.append(f"labels are 1 to {size} and count data.label_names from 1")
        return 1
    if lowest >= 1 and highest < size:
        raise DataError(
            f"{first[str(lowest)]}: the labels are {lowest} to {highest}, of {size} classes: set data.label_start to "
            f"the number of {names[0]!r}, 0 or 1"
        )
    stray = str(lowest if lowest < 0 else highest)
    if lowest == 0 and highest == size:
        # Either could be the mistake; likelier is the one that fewer rows have.
        stray = min(stray, "0", key=together.counts.__getitem__)
    split = next(split for split, part in seen.items() if first[stray] in part.first_place.values())
    raise DataError(
        f"{first[stray]}: label {stray!r} of {split} is not one of the {size} classes {names[:20]}, as numbers "
        f"0 to {size - 1} or all of them 1 to {size}: mend the row, or set data.label_names"
    )


def _refuse_invisible(seen: Mapping[str, Seen], names: Sequence[str] | None, notes: list[str]) -> None:
    """Refuse labels that look the same and are not, and note those that look alike."""
    together = Seen.of(seen.values())
    counts, first = together.counts, together.first_place
    for label, place in first.items():
        if re.fullmatch("'.*'|=?\".*\"", label) and label not in (names or ()):
            raise DataError(f"{place}: the label {label} has quotes around it: take them off, csv knows double ones")
    for label in names or ():
        written(label, lambda: "data.label_names")
        counts.setdefault(label, 0)
    visible: dict[str, str] = {}
    alike: dict[str, list[str]] = defaultdict(list)
    for label in counts:
        shape = _visible(label)
        other = visible.setdefault(shape, label)
        if key_of(other) != key_of(label):
            place = first.get(label) or first.get(other, "data.label_names")
            raise DataError(f"{place}: the labels {other!a} and {label!a} look the same: write one of them")
        fold = (
            re.sub("['\"`\u00b4\u2018\u2019\u201c\u201d]", "", unicodedata.normalize("NFKC", html.unescape(shape)))
            .casefold()
            .strip(".")
        )
        alike[re.sub(r"[\s_\u2010-\u2015\u2212-]+", " ", fold)].append(label)
    groups = [group for group in alike.values() if len(set(map(key_of, group))) > 1]
    for group in groups[:10]:
        shown = " and ".join(f"{label!r} ({counts[label]})" for label in group[:5])
        notes.append(f"labels that look alike are different classes: {shown}")
    for label in counts:
        if label.lower() in UNSURE:
            notes.append(f"the label {label!r} ({counts[label]} rows) is a class like any other")


def _visible(label: str) -> str:
    """What can be seen of a label."""
    shown = (c for c in label if unicodedata.category(c) != "Cf" and not UNSEEN.match(c))
    return re.sub(r"[\s\u2800]+", " ", unicodedata.normalize("NFC", "".join(shown))).strip().translate(LATIN)


def refuse_unordered(config: DataConfig, names: Sequence[str], asked: str) -> None:
    """Refuse classes whose order was only guessed, before an ordinal objective or soft labels take it for the truth.

    Args:
        config: of the data; the order is known if `label_names` says it, or a Hub data set.
        names: of the classes.
        asked: what of the recipe needs the order.

    Raises:
        RecipeError: if the order is not known and the names are not whole numbers.
    """
    is_guess = config.label_names is None and (config.reads_files or config.name is None)
    if is_guess and not all(name.lstrip("+-").isdigit() for name in names):
        raise RecipeError(
            f"{asked} needs ordered integers as labels, found {list(names)[:8]}: list the classes from "
            "lowest to highest as data.label_names"
        )
