"""`CRClassifier` and `CRRegressor`: CR heads for users of scikit-learn.

In come numbers, or texts that a frozen backbone encodes once. The head is trained by the code of `cr-hf train`, and
saved as the same checkpoint.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Self, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_consistent_length, check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import Tensor

from .data import NUMBERS, SEVERAL, SINGLE, DataConfig, held_out_rows
from .errors import CheckpointError, NonFiniteError
from .evaluation import Task
from .features import TextEncoder
from .files import read_json, write_json
from .modeling import CRConfig, CRForFeatureClassification, CRForSequenceClassification, certified_radius
from .runs import (
    RECIPE,
    Recipe,
    build_classifier,
    choose_dreg_lambda,
    load_recipe,
    override_recipe,
    training_arguments,
)
from .training import HeadResult, SweepHead, load_model, train_heads

ABOUT = "estimator.json"
# Those of recipes/text.yaml; with few rows there are more epochs.
LEAST_EPOCHS, LEAST_STEPS = 10, 300
# The best epoch is that of the least loss, which says more than accuracy on few rows.
TRAINING: dict[str, Any] = {"per_device_train_batch_size": 32, "weight_decay": 0.1}
TRAINING |= {"lr_scheduler_type": "cosine", "metric_for_best_model": "loss"}
OF_TEXTS: dict[str, Any] = {"freeze_backbone": True, "feature_layers": "all"}
OF_FEATURES = ("feature_layers", "pooling", "max_seq_length")
CHUNK = 4096

Features: TypeAlias = NDArray[np.float32]
Labels: TypeAlias = NDArray[Any]


@lru_cache(maxsize=2)
def _text_encoder(backbone: str, revision: str | None, fields: str) -> TextEncoder:
    recipe = Recipe(backbone, DataConfig(), ".", backbone_revision=revision)
    model, tokenizer = build_classifier(recipe, {"num_labels": 2, "hidden_sizes": [], **json.loads(fields)})
    return TextEncoder(model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer)


def _label_fields(names: Sequence[Any], problem_type: str) -> dict[str, Any]:
    by_index = dict(enumerate(map(str, names)))
    ids = {name: index for index, name in by_index.items()}
    return {"id2label": by_index, "label2id": ids, "problem_type": problem_type}


class _CREstimator(BaseEstimator):
    """What the two estimators share; `CRClassifier` says what the parameters are."""

    model_: Any
    tokenizer_: Any
    encoder_: TextEncoder | None

    def __init__(
        self,
        backbone: str | None = None,
        *,
        hidden_sizes: Sequence[int] = (128, 128),
        dreg_lambda: float | str = "auto",
        dropout: float = 0.3,
        learning_rate: float | None = None,
        num_train_epochs: float | None = None,
        validation_fraction: float = 0.1,
        settings: dict[str, Any] | None = None,
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.backbone = backbone
        self.hidden_sizes = hidden_sizes
        self.dreg_lambda = dreg_lambda
        self.dropout = dropout
        self.learning_rate = learning_rate
        self.num_train_epochs = num_train_epochs
        self.validation_fraction = validation_fraction
        self.settings = settings
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = self.backbone is not None
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Train.

        Args:
            X: numbers, shape (rows, in_features), as an array or DataFrame. With a backbone texts, shape (rows,) or
                (rows, 1), or pairs of texts, shape (rows, 2).
            y: classes, shape (rows,), or zeros and ones for several labels a row, shape (rows, num_labels); of
                `CRRegressor` numbers, shape (rows,) or (rows, num_labels).
            sample_weight: factor of each row's loss, shape (rows,), 0 or above; rows with 0 are left out.
        """
        recipe = self._recipe()
        features, y = self._read(X, y, recipe)
        weights: NDArray[np.float64] | None = None
        if sample_weight is not None:
            weights = _check_sample_weight(sample_weight, features, ensure_non_negative=True)
            used = weights > 0
            features, y, weights = features[used], y[used], weights[used]
        fields, labels, strata = self._read_targets(y)
        rest, part = held_out_rows(strata, recipe.data.validation_fraction, recipe.data.seed)
        if len(rest) < max(1, len(np.unique(strata)) if fields["problem_type"] == SINGLE else 1):
            raise ValueError(f"n_samples={len(strata)} (1 sample a class) is too few to hold rows out: give more rows")
        # Not before: a recipe's own rows are read by rules of their own.
        recipe.model["problem_type"] = fields["problem_type"]
        if self.num_train_epochs is None and "num_train_epochs" not in (self.settings or {}):
            steps = math.ceil(len(rest) / recipe.training["per_device_train_batch_size"])
            recipe.training["num_train_epochs"] = max(LEAST_EPOCHS, math.ceil(LEAST_STEPS / steps))
        fields = {**recipe.model, **fields}
        if recipe.chooses_lambda:
            del fields["dreg_lambda"]
        plain = CRConfig(in_features=features.shape[1]) if self.encoder_ is None else self.encoder_.model.config
        config = CRConfig.from_dict({**plain.to_dict(), **fields})
        own = None if weights is None else (weights[rest] / weights[rest].mean()).astype(np.float32)
        split = (features[rest], labels[rest]), (features[part], labels[part])
        self._keep(self._train(recipe, config, *split, own), config)
        return self

    def _recipe(self) -> Recipe:
        """What `cr-hf train` would be given, checked."""
        seed = self.random_state
        if not isinstance(seed, int | np.integer):
            seed = check_random_state(seed).randint(2**31 - 1)
        data = DataConfig(validation_fraction=self.validation_fraction, seed=int(seed))
        own = {"hidden_sizes": list(self.hidden_sizes), "dreg_lambda": self.dreg_lambda, "dropout": self.dropout}
        rate = (1e-3 if self.backbone is None else 5e-4) if self.learning_rate is None else self.learning_rate
        own |= {"learning_rate": rate, "seed": int(seed), **TRAINING}
        own |= {} if self.num_train_epochs is None else {"num_train_epochs": self.num_train_epochs}
        own |= {} if self.backbone is None else OF_TEXTS
        return override_recipe(Recipe(self.backbone or "none", data, "."), {**own, **(self.settings or {})})

    def _read(self, X: Any, y: Any, recipe: Recipe) -> tuple[Features, Labels]:
        """Features and checked labels of `fit`."""
        self.encoder_ = None
        options: dict[str, Any] = {"multi_output": True, "y_numeric": isinstance(self, RegressorMixin)}
        if self.backbone is None:
            return validate_data(self, X, y, dtype=np.float32, ensure_min_samples=2, **options)
        if self.backbone == "static":
            raise ValueError("backbone='static' learns words and is not frozen: train it by cr-hf train")
        check_consistent_length(X, y)
        texts = {name: recipe.model[name] for name in OF_FEATURES if name in recipe.model}
        key = json.dumps({"freeze_backbone": True, **texts}, sort_keys=True)
        self.encoder_ = _text_encoder(self.backbone, recipe.backbone_revision, key)
        return self.encoder_(X, keep=True), np.asarray(y)

    def _train(self, recipe: Recipe, config: CRConfig, train: Any, validation: Any, weights: Any) -> HeadResult:
        """The head of a recipe, by the sweep that `cr-hf train` and `cr-hf study` share."""
        arguments = training_arguments(recipe, Path(recipe.output_dir))
        of_head = CRConfig.from_dict({**config.to_dict(), "backbone_config": None})
        head = SweepHead(of_head, arguments, early_stopping_patience=recipe.early_stopping_patience)
        if recipe.chooses_lambda:
            config.dreg_lambda = choose_dreg_lambda(head, train, validation, weights=weights).chosen
            of_head.dreg_lambda = config.dreg_lambda
        held_out: dict[str, Any] = {"validation_features": validation[0], "validation_labels": validation[1]}
        (found,) = train_heads(train[0], train[1], [head], **held_out, weights=weights)
        if found.best_epoch is None or found.diverged is not None:
            raise NonFiniteError("the loss is not finite: lower learning_rate or dreg_lambda, or check the data")
        return found

    def _keep(self, found: HeadResult, config: CRConfig) -> None:
        self.dreg_lambda_ = config.dreg_lambda
        self.validation_losses_ = found.losses
        if self.encoder_ is None:
            self.model_, self.tokenizer_ = CRForFeatureClassification(config), None
        else:
            self.model_ = CRForSequenceClassification(config, backbone=self.encoder_.model.backbone)
            self.tokenizer_ = self.encoder_.tokenizer
        self.model_.classifier.load_state_dict(found.state)
        self.model_.eval()

    def _read_targets(self, y: Labels) -> tuple[dict[str, Any], Labels, Labels]:
        """Fields of `CRConfig`, the labels that the loss reads, and what the rows held out are stratified by."""
        raise NotImplementedError

    def _features(self, X: Any) -> Features:
        check_is_fitted(self, "model_")
        if self.encoder_ is not None:
            return self.encoder_(X, keep=False)
        return validate_data(self, X, dtype=np.float32, reset=False)

    @torch.no_grad()
    def _logits(self, X: Any) -> Tensor:
        """Logits, shape (rows, num_labels), in float64, so that they do not depend on the rows beside them."""
        features = self._features(X)
        head = copy.deepcopy(self.model_.classifier).double()
        rows = (torch.from_numpy(features[start : start + CHUNK]) for start in range(0, len(features), CHUNK))
        return torch.cat([head(part.to(self.model_.device))[0].cpu() for part in rows])

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the checkpoint that `cr-hf`, `pipeline` and `from_pretrained` load, and the parameters beside it."""
        check_is_fitted(self, "model_")
        self.model_.save_pretrained(folder)
        if self.tokenizer_ is not None:
            self.tokenizer_.save_pretrained(folder)
        params = self.get_params(deep=False)
        if isinstance(self.random_state, np.random.RandomState):
            params["random_state"] = None
        names = getattr(self, "feature_names_in_", None)
        about = {"params": params, "features": None if names is None else names.tolist()}
        write_json(Path(folder) / ABOUT, {**about, "classes": np.asarray(getattr(self, "classes_", [])).tolist()})

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Load what `save_pretrained` wrote, or a run directory of `cr-hf train`.

        Raises:
            CheckpointError: if it is neither, is damaged, or answers another question.
        """
        folder = Path(folder)
        config = read_json(folder / "config.json", "give the folder of a checkpoint")
        if (config.get("problem_type") == NUMBERS) != issubclass(cls, RegressorMixin):
            raise CheckpointError(f"{folder} has problem_type={config.get('problem_type')!r}: not for {cls.__name__}")
        model, tokenizer = load_model(folder, is_table=not config.get("backbone_config"))
        about: Any = {"params": {}, "classes": None, "features": None}
        if (folder / ABOUT).is_file():
            about = read_json(folder / ABOUT, "save it again")
        elif (folder / RECIPE).is_file():
            recipe = load_recipe(folder / RECIPE)
            about["params"] = {
                "backbone": None if tokenizer is None else recipe.backbone,
                "validation_fraction": recipe.data.validation_fraction,
                "settings": {**recipe.model, **recipe.training},
                "random_state": recipe.data.seed,
            }
        else:
            raise CheckpointError(f"{folder} holds neither {ABOUT} nor {RECIPE}: give what this class or cr-hf saved")
        try:
            estimator = cls(**about["params"])
            classes, names = about["classes"], about["features"]
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"{folder / ABOUT} is damaged ({error}): save it again") from error
        estimator.model_, estimator.tokenizer_, estimator.dreg_lambda_ = model, tokenizer, model.config.dreg_lambda
        estimator.encoder_ = None if tokenizer is None else TextEncoder(model, tokenizer)
        if tokenizer is None:
            estimator.n_features_in_ = model.config.in_features
        if names is not None:
            estimator.feature_names_in_ = np.asarray(names, dtype=object)
        if issubclass(cls, CRClassifier):
            estimator.classes_ = np.asarray(Task.of(model.config).label_names if classes is None else classes)
        return estimator


class CRClassifier(ClassifierMixin, _CREstimator):
    """A CR head as a classifier of scikit-learn, of one class a row or of several labels.

    Args:
        backbone: `None` (default) if X holds numbers. For texts "offline" (the packaged encoder), a Hub id such as
            "all-MiniLM-L6-v2", or a local folder; it stays frozen.
        hidden_sizes: units of each CR layer, (128, 128) by default; empty for a linear head.
        dreg_lambda: the DREG coefficient, or "auto" (default): chosen on the rows held out, out of 8 values with 3
            heads each, which takes about 20 times as long as a number, such as 0.02.
        dropout: after each CR layer, 0.3 by default.
        learning_rate: `None` (default) is 5e-4 for texts and 1e-3 for numbers.
        num_train_epochs: passes over the rows; `None` (default) is 10, or more where these are below 300 steps.
        validation_fraction: share of the rows of `fit` that is held out, stratified by class, 0.1 by default. They
            choose lambda, by accuracy, and the epoch that is kept, by loss; the head is not trained on them.
        settings: any other key of a recipe, such as {"objective": "ordinal", "class_weights": "balanced"}; they come
            before the parameters above. `None` by default.
        random_state: seed of initialisation, order, dropout and of the rows held out, 0 by default; `None` for chance.

    Attributes:
        model_: the classifier, `CRForFeatureClassification` or for texts `CRForSequenceClassification`.
        tokenizer_: of the backbone; `None` for numbers.
        dreg_lambda_: the DREG coefficient in use.
        validation_losses_: on the rows held out, after each epoch.

    Raises:
        CRError: from `fit`, with one line, if a key of `settings` is unknown or not for a frozen backbone, if the
            backbone cannot be loaded, or if training came to a number that is not finite.

    Examples:
        >>> model = CRClassifier("offline").fit(texts, labels)
        >>> model.predict(["a quiet, moving film"])
    """

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        tags.target_tags.multi_output = False
        return tags

    def _read_targets(self, y: Labels) -> tuple[dict[str, Any], Labels, Labels]:
        check_classification_targets(y)
        if type_of_target(y) == "multilabel-indicator":
            problem: str = SEVERAL
            labels: Labels = np.asarray(y, np.float32)
            self.classes_, strata = np.arange(y.shape[1]), np.unique(y, axis=0, return_inverse=True)[1].reshape(-1)
        else:
            self.classes_, labels = np.unique(column_or_1d(y, warn=True), return_inverse=True)
            problem, strata = SINGLE, labels
            if len(self.classes_) < 2:
                raise ValueError(f"y has {len(self.classes_)} class: two or more are needed, with weights above 0")
        return _label_fields(self.classes_.tolist(), problem), labels, strata

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Probability of each class, or of each label, shape (rows, num_labels)."""
        logits = self._logits(X)
        return (logits.softmax(-1) if self.model_.config.problem_type == SINGLE else logits.sigmoid()).numpy()

    def predict(self, X: Any) -> Labels:
        """Classes, shape (rows,), or zeros and ones for several labels a row, shape (rows, num_labels)."""
        logits = self._logits(X)
        if self.model_.config.problem_type == SINGLE:
            return self.classes_[logits.argmax(-1).numpy()]
        return (logits > 0).long().numpy()

    def certified_radius(self, X: Any) -> NDArray[np.float64]:
        """For each row the L2 distance that its normalised features can move without the class changing, (rows,).

        Raises:
            ValueError: if a row has several labels.
        """
        features = torch.from_numpy(self._features(X)).to(self.model_.device)
        return certified_radius(self.model_.classifier, features).numpy()


class CRRegressor(RegressorMixin, _CREstimator):
    """A CR head as a regressor of scikit-learn, trained on standardised targets: see `CRClassifier`."""

    def _read_targets(self, y: Labels) -> tuple[dict[str, Any], Labels, Labels]:
        targets = np.asarray(y, np.float64)
        targets = targets.reshape(len(targets), -1)
        self._mean, self._scale = targets.mean(0), np.where(targets.std(0) > 0, targets.std(0), 1.0)
        labels = ((targets - self._mean) / self._scale).astype(np.float32)
        fields = _label_fields([f"LABEL_{index}" for index in range(targets.shape[1])], NUMBERS)
        return fields, labels, np.zeros(len(targets), np.int64)

    def _keep(self, found: HeadResult, config: CRConfig) -> None:
        mean, scale = torch.from_numpy(self._mean), torch.from_numpy(self._scale)
        weight, bias = (found.state[f"readout.{name}"] for name in ("weight", "bias"))
        found.state["readout.weight"] = (weight * scale[:, None]).to(weight)
        found.state["readout.bias"] = (bias * scale + mean).to(bias)
        super()._keep(found, config)

    def predict(self, X: Any) -> NDArray[np.float64]:
        """Numbers, shape (rows,) or (rows, num_labels)."""
        found = self._logits(X).numpy()
        return found[:, 0] if found.shape[1] == 1 else found
