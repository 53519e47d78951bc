"""What one score can say of a bag of words: a reference for the ordinal objective, on validation alone.

Logistic regression on TF-IDF has a direction a class. Ridge regression has one score; the classes are then read off it
by a logistic regression on the cross-validated score and its square, so that no threshold can be what is missing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import cross_val_predict

from cr_hf.data import load_rows

from .runner import recipe_of, start, write_result

PENALTIES = (1.0, 3.0, 10.0)


def powers(score: NDArray[np.float64]) -> NDArray[np.float64]:
    """A score and its square, shape (rows, 2)."""
    return np.stack([score, score**2], axis=1)


def main(argv: Sequence[str] | None = None) -> None:
    """Write experiments/results/single_score.json."""
    options = start(argv, "single_score", __doc__, "yelp5")
    rows = load_rows(recipe_of("yelp_full", options).data, splits=["train", "validation"])
    vectorizer = TfidfVectorizer(min_df=2, sublinear_tf=True)
    train = vectorizer.fit_transform(rows["train"]["text"][:])
    held_out = vectorizer.transform(rows["validation"]["text"][:])
    labels, wanted = (np.asarray(rows[split]["label"][:]) for split in ("train", "validation"))
    several = LogisticRegression(C=2.0, max_iter=300).fit(train, labels).predict(held_out)
    found = {}
    for penalty in PENALTIES:
        ridge = Ridge(alpha=penalty, solver="sparse_cg")
        scores = cross_val_predict(ridge, train, labels, cv=5)
        classes = LogisticRegression(C=1e6, max_iter=500).fit(powers(scores), labels)
        predicted = classes.predict(powers(ridge.fit(train, labels).predict(held_out)))
        found[str(penalty)] = float((predicted == wanted).mean())
    write_result(options, direction_a_class=float((several == wanted).mean()), one_score=found, rows=len(wanted))


if __name__ == "__main__":
    main()
