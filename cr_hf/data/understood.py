"""What was understood of the data, to be said before training and kept with the results."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

SHOWN_CLASSES = 12


@dataclass
class Understood:
    """What loading made of the data.

    Args:
        rows: by split, after limits; a streamed split is not counted.
        text_columns: that were read, of all files.
        text_pair_columns: the same for second texts.
        label_columns: the same for labels.
        classes: by split the rows of each class, in the order of the classes; of what is not classified, none.
        dropped: rows that were left out, by reason.
        notes: what a user should look at; each was logged as a warning.
        reading: fields of `DataConfig` that loading settled, so that later commands read in the same way.
    """

    rows: dict[str, int] = field(default_factory=dict)
    text_columns: list[str] = field(default_factory=list)
    text_pair_columns: list[str] = field(default_factory=list)
    label_columns: list[str] = field(default_factory=list)
    classes: dict[str, dict[str, int]] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    reading: dict[str, int | bool | str] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Four lines or fewer to print, beside the notes, which are logged; labels are shown escaped."""
        rows = ", ".join(f"{split} {count:,}" for split, count in self.rows.items())
        texts = [*map(repr, self.text_columns), *(f"second text {name!r}" for name in self.text_pair_columns)]
        columns = f"text {', '.join(texts)}; " if texts else ""
        lines = [f"Rows: {rows}", f"Columns: {columns}label {', '.join(map(repr, self.label_columns))}"]
        if self.classes:
            counts: Counter[str] = Counter()
            for part in self.classes.values():
                counts.update(part)
            shown = [f"{name!r} {counts[name]:,}" for name in list(counts)[:SHOWN_CLASSES]]
            more = [f"and {len(counts) - SHOWN_CLASSES} more"] if len(counts) > SHOWN_CLASSES else []
            lines.append(f"Classes ({len(counts)}): {', '.join(shown + more)}")
        if self.dropped:
            lines.append("Left out: " + ", ".join(f"{count:,} rows ({why})" for why, count in self.dropped.items()))
        return lines
