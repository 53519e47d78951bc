"""Heads in a sweep against the same heads alone, and against a plain loop of CRHead, torch and transformers."""

import inspect
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import get_scheduler

from cr_hf.errors import DataError
from cr_hf.modeling.configuration_cr import CRConfig
from cr_hf.modeling.head import CRHead
from cr_hf.modeling.objectives import task_loss
from cr_hf.modeling.pretrained import CRForFeatureClassification
from cr_hf.training.arguments import CRTrainingArguments
from cr_hf.training.sweep import HeadResult, predict_heads, train_heads
from cr_hf.training.sweep_head import SweepHead

WIDTH, LABELS, ROWS = 12, 3, 150


def make_rows(rows: int = ROWS, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Three overlapping classes; columns of very different size and offset, one of them constant."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(LABELS, (rows,), generator=generator)
    features = torch.randn(rows, WIDTH, generator=generator)
    features[:, 0] += 2 * labels
    features[:, 1] = 50 + 20 * (features[:, 1] + 2 * (labels == 1))
    features[:, 2] = 0.5
    return features, labels


TRAIN, VALIDATION = make_rows(), make_rows(60, seed=1)


def make_config(**fields: Any) -> CRConfig:
    return CRConfig(**{"in_features": WIDTH, "num_labels": LABELS, "hidden_sizes": (10, 8), **fields})


BEST = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
BEST |= {"metric_for_best_model": "accuracy"}
SHARED = {"num_train_epochs": 3, "per_device_train_batch_size": 32, "lr_scheduler_type": "cosine", "weight_decay": 0.1}
CONFIG_FIELDS = {*inspect.signature(CRConfig.__init__).parameters, "problem_type"} - {"class_weights"}


def make_head(
    train_indices: Sequence[int] | None = None, early_stopping_patience: int | None = None, **fields: Any
) -> SweepHead:
    """A head that keeps its best epoch; the fields are those of `CRConfig` or of `CRTrainingArguments`."""
    model = {name: fields.pop(name) for name in [*fields] if name in CONFIG_FIELDS}
    arguments = CRTrainingArguments(use_cpu=True, **{**SHARED, **BEST, "learning_rate": 3e-4, **fields})
    return SweepHead(make_config(**model), arguments, train_indices, early_stopping_patience)


def train(
    heads: list[SweepHead], dtype: torch.dtype = torch.float32, group_size: int | None = None
) -> list[HeadResult]:
    rows = {"validation_features": VALIDATION[0], "validation_labels": VALIDATION[1]}
    return train_heads(*TRAIN, heads, **rows, dtype=dtype, group_size=group_size)


def relative(first: Tensor, second: Tensor) -> float:
    return float((first - second).abs().max() / second.abs().max())


UNLIKE: list[dict[str, Any]] = [
    {"seed": 0, "dropout": 0.3, "dreg_lambda": 0.05, "learning_rate": 3e-3},
    {"seed": 1, "dropout": 0.0, "dreg_lambda": 0.0, "learning_rate": 1e-2, "weight_decay": 0.0},
    {"seed": 2, "dropout": 0.5, "dreg_schedule": "cosine", "dreg_warmup_steps": 0.2, "learning_rate": 3e-3},
    {"seed": 0, "dreg_lambda": 0.5, "learning_rate": 1e-3, "train_indices": range(3, 90)},
    {"seed": 0, "dreg_lambda": 0.5, "learning_rate": 1e-3, "train_indices": range(0, 87), "class_weights": "balanced"},
    {"seed": 4, "learning_rate": 3e-2, "train_indices": range(0, 120, 2)},
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("activation", "hidden_sizes", "data_seed"),
    [
        ("polynomial", (10, 8), None),
        ("polynomial", (10, 8), 5),
        ("gelu", (10, 8), None),
        ("relu", (10,), 5),
        ("polynomial", (), None),
    ],
)
def test_a_head_in_the_batch_equals_the_same_head_alone(activation, hidden_sizes, data_seed, dtype):
    fields = {"activation": activation, "hidden_sizes": hidden_sizes, "data_seed": data_seed}
    heads = [make_head(**fields, **own) for own in UNLIKE]
    together = predict_heads(train(heads, dtype), TRAIN[0], device="cpu")
    for head, logits in zip(heads, together, strict=True):
        alone = predict_heads(train([head], dtype), TRAIN[0], device="cpu")[0]
        assert alone.dtype == dtype
        assert relative(logits, alone) < (1e-5 if dtype == torch.float32 else 1e-9)


def test_the_group_size_changes_nothing():
    heads = [make_head(seed=seed, dropout=0.2, learning_rate=1e-2) for seed in range(5)]
    whole = predict_heads(train(heads), TRAIN[0])
    for group_size in (1, 2, 4):
        assert relative(predict_heads(train(heads, group_size=group_size), TRAIN[0]), whole) < 1e-5


def test_the_same_call_twice_is_bit_equal():
    heads = [make_head(**own) for own in UNLIKE]
    first, second = train(heads), train(heads)
    for one, other in zip(first, second, strict=True):
        assert one.accuracies == other.accuracies
        assert one.losses == other.losses
        assert all(torch.equal(one.state[name], other.state[name]) for name in one.state)


def test_a_sweep_leaves_the_random_state_as_it_was():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train([make_head(dropout=0.5)])
    assert torch.equal(torch.rand(3), expected)


def reference_head(given: SweepHead, config: CRConfig) -> CRHead:
    """One head by the public parts of this package, torch and transformers, in float64, without dropout."""
    features, labels, arguments = TRAIN[0].double(), TRAIN[1], given.arguments
    if given.train_indices is not None:
        features, labels = features[list(given.train_indices)], labels[list(given.train_indices)]
    torch.manual_seed(arguments.seed)
    head = CRForFeatureClassification(given.config).classifier.double().train()
    head.feature_norm.set_statistics(features.mean(0), features.var(0, correction=0))
    groups: list[dict[str, Any]] = []
    for name, values in head.named_parameters():
        decay = arguments.weight_decay if name.endswith(".weight") else 0.0
        rate = given.rates[1] if name.startswith("thresholds.") else arguments.learning_rate
        groups.append({"params": [values], "weight_decay": decay, "lr": rate})
    optimizer = torch.optim.AdamW(groups, lr=arguments.learning_rate, foreach=False)
    batch_size = arguments.per_device_train_batch_size
    total = arguments.num_train_epochs * math.ceil(len(features) / batch_size)
    warmup = arguments.warmup_steps
    warmup_steps = math.ceil(warmup * total) if warmup < 1 else int(warmup)
    scheduler = get_scheduler(arguments.lr_scheduler_type, optimizer, warmup_steps, total)
    step = 0
    for epoch in range(arguments.num_train_epochs):
        order = torch.Generator().manual_seed(arguments.seed + epoch)
        for batch in torch.randperm(len(features), generator=order).split(batch_size):
            logits, dreg = head(features[batch], output_dreg=True)
            loss = (
                task_loss(
                    logits,
                    labels[batch],
                    config.problem_type,
                    config.class_weights,
                    config.label_smoothing,
                    soft_labels=config.soft_labels,
                    squared_emd=config.squared_emd,
                )
                + given.lambda_at(step, total) * dreg.sum()
            )
            optimizer.zero_grad()
            loss.backward()
            if arguments.max_grad_norm > 0:
                torch.nn.utils.clip_grad_norm_(head.parameters(), arguments.max_grad_norm)
            optimizer.step()
            scheduler.step()
            step += 1
    return head


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"degree": 5, "polynomial_range": 1.0, "lr_scheduler_type": "linear", "warmup_steps": 0.3},
        {"degree": 2, "polynomial_range": None, "lr_scheduler_type": "constant", "max_grad_norm": 0.0},
        {"degree": 1, "coefficient_init": "identity", "warmup_steps": 2, "max_grad_norm": 0.05},
        {"activation": "gelu", "label_smoothing": 0.1},
        {"activation": "relu", "class_weights": [0.5, 1.0, 1.5], "soft_labels": 0.5},
        {"activation": "tanh", "per_device_train_batch_size": 500},
        {"activation": "silu"},
        {"hidden_sizes": ()},
        {"objective": "ordinal"},
        {"objective": "ordinal", "ordinal_loss": "cumulative_link"},
        {"dreg_mode": "worst"},
        {"dreg_mode": "worst", "activation": "silu"},
    ],
)
def test_the_weights_are_those_of_a_plain_loop(fields):
    fields = {"dropout": 0.0, "load_best_model_at_end": False, "learning_rate": 3e-3, **fields}
    heads = [
        make_head(seed=0, **{**fields, "learning_rate": 1e-2}),
        make_head(seed=1, dreg_lambda=0.3, dreg_schedule="linear", **{**fields, "weight_decay": 0.5}),
        make_head(range(5, 100), seed=2, dreg_warmup_steps=3, **fields),
        make_head(seed=3, threshold_learning_rate=0.1, **fields),
    ]
    for given, result in zip(heads, train(heads, torch.float64), strict=True):
        head = reference_head(given, result.config)
        for name, values in head.state_dict().items():
            torch.testing.assert_close(result.state[name], values, rtol=1e-9, atol=1e-9)
        # Every parameter has moved, so none can agree because both loops forgot it.
        torch.manual_seed(given.arguments.seed)
        start = CRForFeatureClassification(given.config).classifier.double()
        assert all(not torch.equal(result.state[name], values) for name, values in start.named_parameters())


def test_dropout_is_on_in_training():
    with_dropout, without = train([make_head(dropout=rate, load_best_model_at_end=False) for rate in (0.5, 0.0)])
    assert not torch.allclose(with_dropout.state["readout.weight"], without.state["readout.weight"])


def test_a_head_that_diverges_is_reported_and_disturbs_no_other():
    healthy = [make_head(seed=seed, learning_rate=1e-2, dropout=0.2) for seed in range(2)]
    broken = make_head(seed=7, learning_rate=1e30)
    results = train([healthy[0], broken, healthy[1]])
    alone = train(healthy)
    assert results[1].diverged == 1
    assert all(math.isnan(accuracy) for accuracy in results[1].accuracies)
    assert results[1].best_epoch is None
    assert all(torch.isfinite(values).all() for values in results[1].state.values())
    for index, reference in zip((0, 2), alone, strict=True):
        assert results[index].diverged is None
        assert relative(*(predict_heads([head], TRAIN[0])[0] for head in (results[index], reference))) < 1e-5


@pytest.mark.parametrize(("metric", "name"), [("accuracy", "accuracies"), ("loss", "losses")])
def test_the_best_epoch_is_kept_per_head_and_ties_go_to_the_earlier(metric, name):
    fields = {"num_train_epochs": 8, "metric_for_best_model": metric, "dropout": 0, "dreg_lambda": 0}
    results = train([make_head(seed=seed, learning_rate=0.01 * (seed + 1), **fields) for seed in range(6)])
    assert len({result.best_epoch for result in results}) > 1
    for result in results:
        curve = getattr(result, name)
        assert len(curve) == 8
        assert result.best_epoch == curve.index(max(curve) if metric == "accuracy" else min(curve))
        logits = predict_heads([result], VALIDATION[0])[0]
        accuracy = float((logits.argmax(-1) == VALIDATION[1]).float().mean())
        assert accuracy == pytest.approx(result.accuracies[result.best_epoch])
        loss = float(torch.nn.functional.cross_entropy(logits, VALIDATION[1]))
        assert loss == pytest.approx(result.losses[result.best_epoch], rel=1e-5)


def test_early_stopping_ends_a_head_by_itself():
    fields = {"learning_rate": 3e-2, "dropout": 0, "num_train_epochs": 8}
    whole = train([make_head(seed=seed, **fields) for seed in range(6)])
    stopped = train([make_head(seed=seed, early_stopping_patience=2, **fields) for seed in range(6)])
    assert len({len(result.accuracies) for result in stopped}) > 1
    for full, early in zip(whole, stopped, strict=True):
        epochs = len(early.accuracies)
        assert early.accuracies == full.accuracies[:epochs]
        assert early.best_epoch == early.accuracies.index(max(early.accuracies))
        assert epochs == min(8, early.best_epoch + 3)


def test_standardisation_is_fitted_on_the_subset_in_use():
    indices = list(range(10, 70))
    everything, subset = train([make_head(), make_head(indices)])
    for result, rows in ((everything, TRAIN[0]), (subset, TRAIN[0][indices])):
        model = CRForFeatureClassification(result.config)
        model.fit_feature_norm(rows)
        for name in ("mean", "scale", "fitted"):
            torch.testing.assert_close(
                result.state[f"feature_norm.{name}"], getattr(model.classifier.feature_norm, name), rtol=1e-6, atol=0
            )
        assert result.state["feature_norm.scale"][2] == 0


def test_a_result_is_a_head():
    results = train([make_head(**own) for own in UNLIKE])
    logits = predict_heads(results, VALIDATION[0], batch_size=17)
    assert logits.shape == (len(UNLIKE), 60, LABELS)
    for own, result, expected in zip(UNLIKE, results, logits, strict=True):
        fields = {"dropout": 0.1, "dreg_lambda": 0.02, **own}
        assert (result.config.dropout, result.config.dreg_lambda) == (fields["dropout"], fields["dreg_lambda"])
        with torch.no_grad():
            assert relative(result.head()(VALIDATION[0])[0], expected) < 1e-5
        model = CRForFeatureClassification(result.config)
        model.classifier.load_state_dict(result.state)


def test_features_from_a_read_only_memory_map_and_labels_from_a_list(tmp_path: Path):
    np.save(tmp_path / "features.npy", TRAIN[0].numpy())
    features = np.load(tmp_path / "features.npy", mmap_mode="r")
    rows = {"validation_features": VALIDATION[0].numpy(), "validation_labels": VALIDATION[1].numpy()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = train_heads(features, TRAIN[1].tolist(), [make_head()], **rows)[0]
    assert all(torch.equal(values, result.state[name]) for name, values in train([make_head()])[0].state.items())


def test_the_data_order_is_that_of_the_seed_or_of_data_seed():
    fields = {"seed": 3, "dropout": 0, "load_best_model_at_end": False}
    results = train([make_head(data_seed=seed, **fields) for seed in (None, 3, 4)])
    by_seed, same, other = (result.state["readout.weight"] for result in results)
    assert torch.equal(by_seed, same)
    assert not torch.allclose(by_seed, other)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"learning_rate": -1.0}, "learning_rate=-1.0"),
        ({"weight_decay": math.inf}, "weight_decay=inf"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"dreg_lambda": -0.1}, "dreg_lambda=-0.1"),
        ({"dreg_schedule": "step"}, "dreg_schedule='step'"),
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size=0"),
        ({"early_stopping_patience": 0}, "early_stopping_patience=0"),
        ({"max_grad_norm": -1.0}, "max_grad_norm=-1.0"),
        ({"metric_for_best_model": "f1"}, "metric_for_best_model='f1'"),
        ({"eval_strategy": "steps", "save_strategy": "steps"}, "eval_strategy='steps' is not for a sweep"),
        ({"soft_labels": 0.5, "label_smoothing_factor": 0.1}, "label_smoothing=0.1 and soft_labels=0.5"),
        ({"eval_delay": 2}, "eval_delay=2 is not for a sweep"),
        ({"optim": "sgd"}, "optim='sgd' is not for a sweep"),
        ({"lr_scheduler_type": "reduce_lr_on_plateau"}, "lr_scheduler_type='reduce_lr_on_plateau' is not for a sweep"),
    ],
)
def test_what_cannot_be_is_refused_by_name_before_training(fields, message):
    with pytest.raises(ValueError, match=message):
        train([make_head(**fields)])


def test_weights_of_rows():
    heads, (features, labels) = [make_head(seed=seed, dropout=0.2) for seed in range(2)], TRAIN
    rows = {"validation_features": VALIDATION[0], "validation_labels": VALIDATION[1]}
    weights = np.ones(len(features), np.float32)
    for one, other in zip(train_heads(*TRAIN, heads, **rows, weights=weights), train(heads), strict=True):
        assert all(torch.equal(one.state[name], other.state[name]) for name in one.state)
    weights[:50] = 0
    found = [
        train_heads(features, torch.cat([(labels[:50] + shift) % 3, labels[50:]]), heads, **rows, weights=weights)[1]
        for shift in (0, 1)
    ]
    assert torch.equal(found[0].state["readout.weight"], found[1].state["readout.weight"])
    assert not torch.equal(found[0].state["readout.weight"], other.state["readout.weight"])


@pytest.mark.parametrize("fields", [{"feature_norm": "layer_norm"}, {"dreg_mode": "chain"}])
def test_a_configuration_that_a_sweep_cannot_train_is_refused(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        train([make_head(**fields)])


@pytest.mark.parametrize(
    ("features", "labels", "indices", "message"),
    [
        (TRAIN[0][:, :5], TRAIN[1], None, r"shape \(150, 5\)"),
        (TRAIN[0], TRAIN[1][:-1], None, "149 entries for 150 rows"),
        (TRAIN[0], TRAIN[1] + 1, None, "from 0 to 2"),
        (TRAIN[0], TRAIN[1].float(), None, "whole numbers"),
        (*TRAIN, [0, 150], "head 0 must name rows from 0 to 149"),
        (*TRAIN, [], "at least one"),
    ],
)
def test_rows_that_cannot_be_used_are_refused(features, labels, indices, message):
    rows = {"validation_features": VALIDATION[0], "validation_labels": VALIDATION[1]}
    with pytest.raises(DataError, match=message):
        train_heads(features, labels, [make_head(indices)], **rows)


def test_features_that_are_not_finite_are_refused():
    features = TRAIN[0].clone()
    features[3, 4] = math.nan
    rows = {"validation_features": VALIDATION[0], "validation_labels": VALIDATION[1]}
    with pytest.raises(ValueError, match="column 4"):
        train_heads(features, TRAIN[1], [make_head()], **rows)


def test_no_head_is_no_result():
    assert train([]) == []
