"""The scripts of the pixel regimes, on small generated images."""

import gzip
import json
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
VERDICTS = ("reproduced", "in direction only", "not reproduced", "definition not public", "not testable here")


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
    assert {"claim", "protocol", "data", "rule", "ours", "environment", "seeds"} <= set(result)
    assert result["verdict"] in VERDICTS
    assert result["environment"]["threads"] == 1


def test_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import run_mnist

    for split, rows in (("train", 300), ("t10k", 100)):
        images, labels = drawn(rows, (28, 28), rows)
        write_idx(tmp_path / f"{split}-images-idx3-ubyte.gz", images)
        write_idx(tmp_path / f"{split}-labels-idx1-ubyte.gz", labels)
        assert np.array_equal(run_mnist.read_idx(tmp_path / f"{split}-images-idx3-ubyte.gz"), images)
    for name, value in {"RESULTS": tmp_path, "SIZES": [[4], [8]], "SEEDS": 2, "VALIDATION_ROWS": 100}.items():
        monkeypatch.setattr(run_mnist, name, value)
    monkeypatch.setattr(sys, "argv", ["run_mnist.py", str(tmp_path)])
    run_mnist.main()
    found, gradient = (
        json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8")) for name in ("mnist", "mnist_gradient")
    )
    check(found)
    check(gradient)
    assert found["arms"]["relu"][1]["parameters"] == 784 * 8 + 8 + 8 * 10 + 10
    assert found["arms"]["cr+dreg"][1]["parameters"] == 784 * 8 + 8 + 4 * 8 + 8 * 10 + 10
    assert np.shape([record["test_accuracies"] for record in found["arms"]["cr"]]) == (2, 2)
    assert len(gradient["changes"]["peak_gradients"]["by_size"]) == 2


def test_margin_gradients_of_a_linear_head_are_differences_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import torch
    from run_mnist import margin_gradient_norms

    from cr_hf import CRConfig
    from cr_hf.head import CRHead

    head = CRHead(CRConfig(in_features=5, num_labels=3, hidden_sizes=[])).eval()
    head.feature_norm.set_statistics(torch.zeros(5), torch.ones(5))
    features = torch.randn(7, 5)
    first, second = head.readout(head.feature_norm(features)).topk(2).indices.T
    expected = (head.readout.weight[first] - head.readout.weight[second]).norm(dim=1)
    np.testing.assert_allclose(margin_gradient_norms(head, features.numpy()), expected.detach(), rtol=1e-5)


def test_cifar10c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import run_cifar10c

    (x_train, y_train), (x_test, y_test) = drawn(300, (32, 32, 3), 0), drawn(40, (32, 32, 3), 1)
    np.savez(tmp_path / "cifar10_subset.npz", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    for name, value in {"RESULTS": tmp_path, "HIDDEN_SIZES": [8], "SEEDS": 2, "VALIDATION_ROWS": 100}.items():
        monkeypatch.setattr(run_cifar10c, name, value)
    monkeypatch.setattr(sys, "argv", ["run_cifar10c.py", str(tmp_path)])
    run_cifar10c.main()
    found = json.loads((tmp_path / "cifar10c.json").read_text(encoding="utf-8"))
    check(found)
    arm = found["arms"]["cr+dreg"]
    assert len(arm["curves"]) == 15
    assert np.mean(list(arm["curves"].values())) == pytest.approx(np.mean(arm["mean_corruption_accuracies"]))
    assert len(found["comparisons"]["mean_corruption_accuracy"]) == 2
