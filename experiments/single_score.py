"""What one score can say of a bag of words: a reference for the ordinal objective, on validation alone.

Usage: python -m experiments.single_score [DATA_DIR]     (default: ../shared/data/yelp5)
Logistic regression on TF-IDF has a direction a class. Ridge regression has one score; the classes are then read off it
by a logistic regression on the cross-validated score and its square, so that no threshold can be what is missing.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import cross_val_predict

from cr_hf.data import DataConfig, load_rows
from cr_hf.files import write_json

ROOT = Path(__file__).resolve().parents[1]
PENALTIES = (1.0, 3.0, 10.0)


def powers(score: NDArray[np.float64]) -> NDArray[np.float64]:
    """A score and its square, shape (rows, 2)."""
    return np.stack([score, score**2], axis=1)


def main() -> None:
    """Write experiments/results/single_score.json."""
    data_dir = sys.argv[1] if len(sys.argv) > 1 else "../shared/data/yelp5"
    rows = load_rows(DataConfig(dir=data_dir), splits=["train", "validation"])
    vectorizer = TfidfVectorizer(min_df=2, sublinear_tf=True)
    train, validation = vectorizer.fit_transform(rows["train"]["text"][:]), rows["validation"]["text"][:]
    held = vectorizer.transform(validation)
    labels, wanted = (np.asarray(rows[split]["label"][:]) for split in ("train", "validation"))
    several = LogisticRegression(C=2.0, max_iter=300).fit(train, labels).predict(held)
    found = {}
    for penalty in PENALTIES:
        ridge = Ridge(alpha=penalty, solver="sparse_cg")
        classes = LogisticRegression(C=1e6, max_iter=500).fit(
            powers(cross_val_predict(ridge, train, labels, cv=5)), labels
        )
        found[str(penalty)] = float((classes.predict(powers(ridge.fit(train, labels).predict(held))) == wanted).mean())
    result = {"direction_a_class": float((several == wanted).mean()), "one_score": found, "rows": len(wanted)}
    print(result)
    write_json(ROOT / "experiments" / "results" / "single_score.json", result)


if __name__ == "__main__":
    main()
