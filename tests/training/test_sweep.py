"""Heads in a sweep against the same heads alone, and against a plain loop of CRHead, torch and transformers."""

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import get_scheduler

from cr_hf.errors import DataError
from cr_hf.modeling.configuration_cr import CRConfig
from cr_hf.modeling.modeling_cr import CRForFeatureClassification, CRHead
from cr_hf.modeling.objectives import task_loss
from cr_hf.training.schedules import scheduled_lambda
from cr_hf.training.stacked import default_group_size
from cr_hf.training.sweep import HeadResult, HeadSpec, SweepArguments, predict_heads, train_heads

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


def train(specs: list[HeadSpec], config: CRConfig | None = None, **fields: Any) -> list[HeadResult]:
    group_size = fields.pop("group_size", None)
    arguments = SweepArguments(**{"num_train_epochs": 3, "batch_size": 32, **fields})
    features, labels = VALIDATION
    return train_heads(
        *TRAIN,
        specs,
        config or make_config(),
        arguments,
        validation_features=features,
        validation_labels=labels,
        device="cpu",
        group_size=group_size,
    )


def relative(first: Tensor, second: Tensor) -> float:
    return float((first - second).abs().max() / second.abs().max())


UNLIKE_SPECS = [
    HeadSpec(seed=0, dropout=0.3, dreg_lambda=0.05, learning_rate=3e-3),
    HeadSpec(seed=1, dropout=0.0, dreg_lambda=0.0, learning_rate=1e-2, weight_decay=0.0),
    HeadSpec(seed=2, dropout=0.5, dreg_schedule="cosine", dreg_warmup_steps=0.2, learning_rate=3e-3),
    HeadSpec(seed=0, dropout=0.1, dreg_lambda=0.5, learning_rate=1e-3, train_indices=range(3, 90)),
    HeadSpec(seed=0, dropout=0.1, dreg_lambda=0.5, learning_rate=1e-3, train_indices=range(0, 87)),
    HeadSpec(seed=4, learning_rate=3e-2, train_indices=range(0, 120, 2)),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("activation", "hidden_sizes", "data_order"),
    [
        ("polynomial", (10, 8), "per_head"),
        ("polynomial", (10, 8), "shared"),
        ("gelu", (10, 8), "per_head"),
        ("relu", (10,), "shared"),
        ("polynomial", (), "per_head"),
    ],
)
def test_a_head_in_the_batch_equals_the_same_spec_alone(activation, hidden_sizes, data_order, dtype):
    config = make_config(activation=activation, hidden_sizes=hidden_sizes)
    fields = {"dtype": dtype, "data_order": data_order, "load_best_model_at_end": False}
    together = predict_heads(train(UNLIKE_SPECS, config, **fields), TRAIN[0], device="cpu")
    for spec, logits in zip(UNLIKE_SPECS, together, strict=True):
        alone = predict_heads(train([spec], config, **fields), TRAIN[0], device="cpu")[0]
        assert alone.dtype == dtype
        assert relative(logits, alone) < (1e-5 if dtype == torch.float32 else 1e-9)


def test_the_group_size_changes_nothing():
    specs = [HeadSpec(seed=seed, dropout=0.2, learning_rate=1e-2) for seed in range(5)]
    whole = predict_heads(train(specs), TRAIN[0])
    for group_size in (1, 2, 4):
        assert relative(predict_heads(train(specs, group_size=group_size), TRAIN[0]), whole) < 1e-5


def test_the_same_call_twice_is_bit_equal():
    first, second = train(UNLIKE_SPECS), train(UNLIKE_SPECS)
    for one, other in zip(first, second, strict=True):
        assert one.accuracies == other.accuracies
        assert one.losses == other.losses
        assert all(torch.equal(one.state[name], other.state[name]) for name in one.state)


def test_a_sweep_leaves_the_random_state_as_it_was():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train([HeadSpec(dropout=0.5)])
    assert torch.equal(torch.rand(3), expected)


def reference_head(spec: HeadSpec, config: CRConfig, arguments: SweepArguments) -> CRHead:
    """One head by the public parts of this package, torch and transformers, in float64, without dropout."""
    features, labels = TRAIN[0].double(), TRAIN[1]
    if spec.train_indices is not None:
        features, labels = features[list(spec.train_indices)], labels[list(spec.train_indices)]
    torch.manual_seed(spec.seed)
    head = CRHead(config).double().train()
    head.feature_norm.set_statistics(features.mean(0), features.var(0, correction=0))
    groups: list[dict[str, Any]] = []
    for name, values in head.named_parameters():
        decay = spec.weight_decay if name.endswith(".weight") else 0.0
        rate = spec.rates[1] if name.startswith("thresholds.") else spec.learning_rate
        groups.append({"params": [values], "weight_decay": decay, "lr": rate})
    optimizer = torch.optim.AdamW(groups, lr=spec.learning_rate, foreach=False)
    total = arguments.num_train_epochs * math.ceil(len(features) / arguments.batch_size)
    warmup = arguments.warmup_steps
    warmup_steps = math.ceil(warmup * total) if warmup < 1 else int(warmup)
    scheduler = get_scheduler(arguments.lr_scheduler_type, optimizer, warmup_steps, total)
    order, step = torch.Generator().manual_seed(spec.seed), 0
    for _ in range(arguments.num_train_epochs):
        for batch in torch.randperm(len(features), generator=order).split(arguments.batch_size):
            logits, dreg = head(features[batch], output_dreg=True)
            coefficient = scheduled_lambda(
                step, total, spec.dreg_lambda, spec.dreg_lambda_end, spec.dreg_schedule, spec.dreg_warmup_steps
            )
            loss = (
                task_loss(logits, labels[batch], config.problem_type, config.class_weights, config.label_smoothing)
                + coefficient * dreg.sum()
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
    ("config", "arguments"),
    [
        ({}, {}),
        ({"degree": 5, "polynomial_range": 1.0}, {"lr_scheduler_type": "linear", "warmup_steps": 0.3}),
        ({"degree": 2, "polynomial_range": None}, {"lr_scheduler_type": "constant", "max_grad_norm": 0.0}),
        ({"degree": 1, "coefficient_init": "identity"}, {"warmup_steps": 2, "max_grad_norm": 0.05}),
        ({"activation": "gelu", "label_smoothing": 0.1}, {}),
        ({"activation": "relu", "class_weights": [0.5, 1.0, 1.5]}, {}),
        ({"activation": "tanh"}, {"batch_size": 500}),
        ({"activation": "silu"}, {}),
        ({"hidden_sizes": ()}, {}),
        ({"objective": "ordinal"}, {}),
    ],
)
def test_the_weights_are_those_of_a_plain_loop(config, arguments):
    config = make_config(dropout=0.0, **config)
    fields = {"dtype": torch.float64, "load_best_model_at_end": False, **arguments}
    specs = [
        HeadSpec(seed=0, dropout=0, learning_rate=1e-2),
        HeadSpec(seed=1, dropout=0, learning_rate=3e-3, dreg_lambda=0.3, dreg_schedule="linear", weight_decay=0.5),
        HeadSpec(seed=2, dropout=0, learning_rate=3e-3, train_indices=range(5, 100), dreg_warmup_steps=3),
        HeadSpec(seed=3, dropout=0, learning_rate=3e-3, threshold_learning_rate=0.1),
    ]
    for spec, result in zip(specs, train(specs, config, **fields), strict=True):
        head = reference_head(spec, config, SweepArguments(**{"num_train_epochs": 3, "batch_size": 32, **arguments}))
        for name, values in head.state_dict().items():
            torch.testing.assert_close(result.state[name], values, rtol=1e-9, atol=1e-9)
        # Every parameter has moved, so none can agree because both loops forgot it.
        torch.manual_seed(spec.seed)
        start = CRHead(config).double()
        assert all(not torch.equal(result.state[name], values) for name, values in start.named_parameters())


def test_dropout_is_on_in_training():
    with_dropout, without = train([HeadSpec(dropout=0.5), HeadSpec(dropout=0.0)], load_best_model_at_end=False)
    assert not torch.allclose(with_dropout.state["readout.weight"], without.state["readout.weight"])


def test_a_head_that_diverges_is_reported_and_disturbs_no_other():
    healthy = [HeadSpec(seed=seed, learning_rate=1e-2, dropout=0.2) for seed in range(2)]
    broken = HeadSpec(seed=7, learning_rate=1e30)
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
    specs = [HeadSpec(seed=seed, learning_rate=0.01 * (seed + 1), dropout=0, dreg_lambda=0) for seed in range(6)]
    results = train(specs, num_train_epochs=8, metric_for_best_model=metric)
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
    specs = [HeadSpec(seed=seed, learning_rate=3e-2, dropout=0) for seed in range(6)]
    whole = train(specs, num_train_epochs=8)
    stopped = train(specs, num_train_epochs=8, early_stopping_patience=2)
    assert len({len(result.accuracies) for result in stopped}) > 1
    for full, early in zip(whole, stopped, strict=True):
        epochs = len(early.accuracies)
        assert early.accuracies == full.accuracies[:epochs]
        assert early.best_epoch == early.accuracies.index(max(early.accuracies))
        assert epochs == min(8, early.best_epoch + 3)


def test_standardisation_is_fitted_on_the_subset_in_use():
    indices = list(range(10, 70))
    everything, subset = train([HeadSpec(), HeadSpec(train_indices=indices)])
    for result, rows in ((everything, TRAIN[0]), (subset, TRAIN[0][indices])):
        model = CRForFeatureClassification(result.config)
        model.fit_feature_norm(rows)
        for name in ("mean", "scale", "fitted"):
            torch.testing.assert_close(
                result.state[f"feature_norm.{name}"], getattr(model.classifier.feature_norm, name), rtol=1e-6, atol=0
            )
        assert result.state["feature_norm.scale"][2] == 0


def test_a_result_is_a_head():
    results = train(UNLIKE_SPECS)
    logits = predict_heads(results, VALIDATION[0], batch_size=17)
    assert logits.shape == (len(UNLIKE_SPECS), 60, LABELS)
    for spec, result, expected in zip(UNLIKE_SPECS, results, logits, strict=True):
        assert result.spec == spec
        assert (result.config.dropout, result.config.dreg_lambda) == (spec.dropout, spec.dreg_lambda)
        with torch.no_grad():
            assert relative(result.head()(VALIDATION[0])[0], expected) < 1e-5
        model = CRForFeatureClassification(result.config)
        model.classifier.load_state_dict(result.state_dict())


def test_features_from_a_read_only_memory_map_and_labels_from_a_list(tmp_path: Path):
    np.save(tmp_path / "features.npy", TRAIN[0].numpy())
    features = np.load(tmp_path / "features.npy", mmap_mode="r")
    rows = {"validation_features": VALIDATION[0].numpy(), "validation_labels": VALIDATION[1].numpy()}
    arguments = SweepArguments(num_train_epochs=3, batch_size=32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = train_heads(features, TRAIN[1].tolist(), [HeadSpec()], make_config(), arguments, **rows)[0]
    assert all(torch.equal(values, result.state[name]) for name, values in train([HeadSpec()])[0].state.items())


def test_the_data_order_is_the_seed_s_or_shared():
    fields = {"specs": [HeadSpec(seed=3, dropout=0)], "load_best_model_at_end": False}
    by_seed = train(**fields)[0].state["readout.weight"]
    same, other = (train(**fields, data_order="shared", data_seed=seed)[0] for seed in (3, 4))
    # One seed is one order: data_seed=3 gives all heads the order that a head of seed 3 has by itself.
    assert torch.equal(by_seed, same.state["readout.weight"])
    assert not torch.allclose(by_seed, other.state["readout.weight"])


def test_group_sizes_follow_from_memory():
    cpu = torch.device("cpu")
    wide = CRConfig(in_features=2688, num_labels=5)
    narrow = CRConfig(in_features=384, num_labels=5)
    assert default_group_size(wide, 128, torch.float32, cpu) == 10
    assert default_group_size(narrow, 128, torch.float32, cpu) == 30
    assert default_group_size(wide, 128, torch.float64, cpu) == 5
    assert default_group_size(wide, 128, torch.float32, cpu, copied_rows=100_000) == 3
    assert default_group_size(CRConfig(in_features=10**6, num_labels=5), 128, torch.float32, cpu) == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"learning_rate": -1.0}, "learning_rate=-1.0"),
        ({"weight_decay": math.inf}, "weight_decay=inf"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"dreg_lambda": -0.1}, "dreg_lambda=-0.1"),
        ({"dreg_schedule": "step"}, "dreg_schedule='step'"),
    ],
)
def test_a_spec_refuses_what_cannot_be(fields, message):
    with pytest.raises(ValueError, match=message):
        HeadSpec(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_train_epochs": 0}, "num_train_epochs=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"early_stopping_patience": 0}, "early_stopping_patience=0"),
        ({"warmup_steps": -1}, "warmup_steps=-1"),
        ({"data_order": "random"}, "data_order='random'.*per_head, shared"),
        ({"metric_for_best_model": "f1"}, "metric_for_best_model='f1'"),
    ],
)
def test_arguments_refuse_what_cannot_be(fields, message):
    with pytest.raises(ValueError, match=message):
        SweepArguments(**fields)


@pytest.mark.parametrize(
    "fields",
    [{"feature_norm": "layer_norm"}, {"dreg_mode": "chain"}, {"problem_type": "multi_label_classification"}],
)
def test_a_configuration_that_a_sweep_cannot_train_is_refused(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        train([HeadSpec()], make_config(**fields))


@pytest.mark.parametrize(
    ("features", "labels", "indices", "message"),
    [
        (TRAIN[0][:, :5], TRAIN[1], None, r"shape \(150, 5\)"),
        (TRAIN[0], TRAIN[1][:-1], None, "149 entries for 150 rows"),
        (TRAIN[0], TRAIN[1] + 1, None, "from 0 to 2"),
        (TRAIN[0], TRAIN[1].float(), None, "whole numbers"),
        (*TRAIN, [0, 150], "spec 0 must name rows from 0 to 149"),
        (*TRAIN, [], "at least one"),
    ],
)
def test_rows_that_cannot_be_used_are_refused(features, labels, indices, message):
    rows = {"validation_features": VALIDATION[0], "validation_labels": VALIDATION[1]}
    with pytest.raises(DataError, match=message):
        train_heads(features, labels, [HeadSpec(train_indices=indices)], make_config(), **rows)


def test_features_that_are_not_finite_are_refused():
    features = TRAIN[0].clone()
    features[3, 4] = math.nan
    rows = {"validation_features": VALIDATION[0], "validation_labels": VALIDATION[1]}
    with pytest.raises(ValueError, match="column 4"):
        train_heads(features, TRAIN[1], [HeadSpec()], make_config(), **rows)


def test_no_spec_is_no_head():
    assert train([]) == []
