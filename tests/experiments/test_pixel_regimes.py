"""The scripts of the pixel regimes, on small generated images."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from experiments import cifar10c, mnist

VERDICTS = ("reproduced", "in direction only", "not reproduced", "definition unknown", "not testable here")


def drawn(rows: int, shape: tuple[int, ...], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Ten classes, each a brighter band of the image."""
    generator = np.random.default_rng(seed)
    labels = np.arange(rows) % 10
    images = generator.integers(0, 120, (rows, *shape))
    for image, label in zip(images, labels, strict=True):
        image[2 * label : 2 * label + 4] += 100
    return images.astype(np.uint8), labels.astype(np.uint8)


def write_idx(path: Path, values: np.ndarray) -> None:
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(header + values.tobytes()))


def check(result: dict) -> None:
    assert {"claims", "data", "rule", "environment", "seeds"} <= set(result)
    for row in result["claims"]:
        assert set(row) == {"claim", "protocol", "ours", "verdict"}
        assert row["verdict"] in VERDICTS
    assert result["environment"]["threads"] == 1


def test_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    for split, rows in (("train", 300), ("t10k", 100)):
        images, labels = drawn(rows, (28, 28), rows)
        write_idx(tmp_path / f"{split}-images-idx3-ubyte.gz", images)
        write_idx(tmp_path / f"{split}-labels-idx1-ubyte.gz", labels)
    sizes = {"SIZES": [[4], [8]], "FINE_SIZES": [[4], [6], [8]]}
    for name, value in sizes.items():
        monkeypatch.setattr(mnist, name, value)
    mnist.main(["--data", str(tmp_path), "--seeds", "2", "--output", str(tmp_path / "mnist.json")])
    found = json.loads((tmp_path / "mnist.json").read_text(encoding="utf-8"))
    check(found)
    assert found["arms"]["relu"][1]["parameters"] == 784 * 8 + 8 + 8 * 10 + 10
    assert found["arms"]["cr+dreg"][2]["parameters"] == 784 * 8 + 8 + 4 * 8 + 8 * 10 + 10
    assert np.shape([record["test_accuracies"] for record in found["arms"]["cr"]]) == (2, 2)
    assert len(found["gradient_changes"]["peak_gradients"]["by_size"]) == 2


def test_cifar10c(tmp_path: Path) -> None:
    (x_train, y_train), (x_test, y_test) = drawn(300, (32, 32, 3), 0), drawn(40, (32, 32, 3), 1)
    np.savez(tmp_path / "cifar10_subset.npz", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    output = tmp_path / "cifar10c.json"
    cifar10c.main(["hidden_sizes=[8]", "--data", str(tmp_path), "--seeds", "2", "--output", str(output)])
    found = json.loads((tmp_path / "cifar10c.json").read_text(encoding="utf-8"))
    check(found)
    arm = found["arms"]["cr+dreg"]
    assert len(arm["curves"]) == 15
    assert np.mean(list(arm["curves"].values())) == pytest.approx(np.mean(arm["mean_corruption_accuracies"]))
    assert len(found["comparisons"]["mean_corruption_accuracy"]) == 2
