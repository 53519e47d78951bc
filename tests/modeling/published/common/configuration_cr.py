"""`CRConfig`: everything that defines a CR classifier, on a backbone or on ready-made features."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable
from typing import Any, ClassVar

import transformers
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

from .static_embeddings import StaticEmbeddingConfig as StaticEmbeddingConfig  # so that transformers knows its type

POOLINGS = ("cls", "mean", "max", "last")
FEATURE_NORMS = ("standardize", "layer_norm")
# Their positions start after the padding id, so max_position_embeddings (514, say) promises too much (512).
POSITIONS_AFTER_PADDING = ("camembert", "longformer", "mpnet", "roberta", "roberta-prelayernorm", "xlm-roberta")
PROBLEM_TYPES = ("single_label_classification", "multi_label_classification", "regression")
MAX_LAYERS = 1_000  # of a backbone: each is built, even to find that there are no weights for it
MAX_LABELS = 1_000_000  # transformers makes a name for each before anything else could be checked
ALLOWED = {
    "activation": ("polynomial", "gelu", "relu", "tanh", "silu"),
    "coefficient_init": ("hermite", "identity"),
    "pooling": POOLINGS,
    "feature_norm": FEATURE_NORMS,
    "objective": ("cross_entropy", "ordinal"),
    "dreg_mode": ("layer", "chain"),
    "freeze_backbone": (True, False),
}


class CRConfig(PreTrainedConfig):
    """Configuration of `CRForSequenceClassification` and `CRForFeatureClassification`.

    Args:
        backbone_config: configuration of the `AutoModel` that makes the features, as an object or a dict with
            `model_type`; `None` for a feature model.
        in_features: width of the features; computed from the backbone if there is one, else required.
        hidden_sizes: units of each CR layer, (128, 128) by default; empty for a linear head.
        degree: of the polynomials, 3 by default.
        activation: `"polynomial"`, or gelu, relu, tanh, silu for an ordinary MLP head.
        coefficient_init: `"hermite"` (default) or `"identity"`.
        polynomial_range: where the polynomials' linear tails begin, 6.0 by default; `None` turns them off, and with
            them the Lipschitz bound.
        dropout: after each CR layer, 0.1 by default.
        pooling: `"mean"` (default), `"cls"` (first token), `"max"` or `"last"` (last token) over attended tokens.
        feature_layers: `"last"` (default), `"all"`, or a list of hidden-state indices (0 is the embeddings) whose
            pooled vectors are concatenated.
        feature_norm: `"standardize"` (default for a frozen backbone and for a feature model) or `"layer_norm"`
            (default for fine-tuning).
        objective: `"cross_entropy"` (default) or `"ordinal"` (labels are ordered classes).
        freeze_backbone: keep the backbone's weights and its dropout off; False by default.
        dreg_lambda: the DREG coefficient, 0.02 by default. The penalty sums over units, so the useful size depends on
            `hidden_sizes`.
        dreg_mode: `"layer"` (default) or `"chain"`, see `dreg.py`.
        dreg_num_tangents: random directions of the chain mode, 8 by default; `None` for the exact norm.
        label_smoothing: share of the target spread over all classes, 0.0 by default.
        class_weights: one factor per class, mean 1 over the training set; `None` by default.
        pos_weight: one factor per label for multi-label classification; `None` by default.
        max_seq_length: texts are cut to this many tokens; `None` leaves it to the tokenizer.
        **kwargs: of `PreTrainedConfig`, and two that loading and saving set by themselves: `backbone_source` (where a
            frozen backbone can be had again) and `head_only` (the checkpoint leaves the backbone's weights there).

    Raises:
        ValueError: naming the field, its value and what is allowed.

    Example:
        >>> CRConfig(in_features=8, num_labels=2, hidden_sizes=(32,)).num_layers
        2
    """

    model_type = "cr"
    sub_configs: ClassVar[dict[str, Any]] = {"backbone_config": AutoConfig}
    has_no_defaults_at_init: ClassVar[bool] = True
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["task_loss", "dreg"]

    def __init__(
        self,
        backbone_config: PreTrainedConfig | dict[str, Any] | None = None,
        in_features: int | None = None,
        hidden_sizes: list[int] | tuple[int, ...] = (128, 128),
        degree: int = 3,
        activation: str = "polynomial",
        coefficient_init: str = "hermite",
        polynomial_range: float | None = 6.0,
        dropout: float = 0.1,
        pooling: str = "mean",
        feature_layers: str | list[int] = "last",
        feature_norm: str | None = None,
        objective: str = "cross_entropy",
        freeze_backbone: bool = False,
        dreg_lambda: float = 0.02,
        dreg_mode: str = "layer",
        dreg_num_tangents: int | None = 8,
        label_smoothing: float = 0.0,
        class_weights: list[float] | None = None,
        pos_weight: list[float] | None = None,
        max_seq_length: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.backbone_config: Any = _read_backbone_config(backbone_config)
        self.hidden_sizes: Any = list(hidden_sizes) if isinstance(hidden_sizes, tuple) else hidden_sizes
        self.degree, self.activation, self.coefficient_init = degree, activation, coefficient_init
        self.polynomial_range, self.dropout, self.pooling = polynomial_range, dropout, pooling
        self.feature_layers: Any = list(feature_layers) if isinstance(feature_layers, tuple) else feature_layers
        self.feature_norm, self.objective, self.freeze_backbone = feature_norm, objective, freeze_backbone
        self.dreg_lambda, self.dreg_mode, self.dreg_num_tangents = dreg_lambda, dreg_mode, dreg_num_tangents
        self.label_smoothing, self.max_seq_length = label_smoothing, max_seq_length
        self.class_weights, self.pos_weight = class_weights, pos_weight
        self.backbone_source: dict[str, Any] | None = kwargs.pop("backbone_source", None)
        self.head_only: bool = kwargs.pop("head_only", False)
        if feature_norm is None:
            frozen = backbone_config is None or freeze_backbone
            self.feature_norm = "standardize" if frozen else "layer_norm"
        self._check_choices()
        self._check_numbers()
        self.in_features: Any = in_features if backbone_config is None else self._backbone_features(in_features)
        num_labels = kwargs.get("num_labels", 1)
        if not (_is_integer(num_labels) and 0 < num_labels <= MAX_LABELS):
            raise ValueError(f"num_labels={num_labels!r} is not allowed: use an integer from 1 to {MAX_LABELS}")
        super().__init__(**kwargs)
        if self.problem_type is None:
            self.problem_type = "regression" if self.num_labels == 1 else "single_label_classification"
        self._check_problem()

    def to_dict(self) -> dict[str, Any]:
        """All fields, as `config.json` holds them, without the folder that the backbone was loaded from."""
        values = super().to_dict()
        if values.get("backbone_config") is not None:
            values["backbone_config"].pop("_name_or_path", None)
        return values

    @property
    def num_layers(self) -> int:
        """Entries of the per-layer DREG: the CR layers and the readout."""
        return len(self.hidden_sizes) + 1

    @property
    def feature_layer_indices(self) -> list[int] | None:
        """Hidden-state indices that are pooled, or `None` for the last hidden state alone."""
        if self.feature_layers == "last":
            return None
        if self.feature_layers == "all":
            return list(range(self._num_hidden_states))
        return self.feature_layers

    def max_length_for(self, tokenizer: Any) -> int:
        """Tokens a text is cut to: the least of what this configuration, the tokenizer and the positions allow."""
        backbone = self.backbone_config.get_text_config()
        positions = getattr(backbone, "max_position_embeddings", None)
        if positions and backbone.model_type in POSITIONS_AFTER_PADDING:
            positions -= backbone.pad_token_id + 1
        # A tokenizer that knows no limit says 1e30, which its own truncation cannot take.
        limits = (self.max_seq_length, tokenizer.model_max_length, positions, 2**31 - 1)
        return min(limit for limit in limits if limit)

    @property
    def _num_hidden_states(self) -> int:
        return self.backbone_config.get_text_config().num_hidden_layers + 1

    def _backbone_features(self, given: int | None) -> int:
        layers = getattr(self.backbone_config.get_text_config(), "num_hidden_layers", 0)
        if not (_is_integer(layers) and 0 <= layers <= MAX_LAYERS):
            raise ValueError(f"the backbone's num_hidden_layers={layers!r} is not allowed: use 0 to {MAX_LAYERS}")
        indices = self.feature_layer_indices
        if indices is not None:
            for index in indices:
                if not -self._num_hidden_states <= index < self._num_hidden_states:
                    raise ValueError(
                        f"feature_layers={self.feature_layers} names hidden state {index}, but the backbone has "
                        f"{self._num_hidden_states} (0 is the embeddings): use 0 to {self._num_hidden_states - 1}"
                    )
        width = self.backbone_config.get_text_config().hidden_size * (1 if indices is None else len(indices))
        if given is not None and given != width:
            raise ValueError(
                f"in_features={given} disagrees with the backbone, which gives {width} features: leave in_features out"
            )
        return width

    def _check_choices(self) -> None:
        for name, allowed in ALLOWED.items():
            value = getattr(self, name)
            if value not in allowed:
                hint = " (of the head: there is no penalty through the backbone)" if name == "dreg_mode" else ""
                raise ValueError(f"{name}={value!r} is not allowed: use one of {', '.join(map(str, allowed))}{hint}")
        layers = self.feature_layers
        if layers not in ("last", "all") and not (
            isinstance(layers, list) and layers and all(_is_integer(index) for index in layers)
        ):
            raise ValueError(f"feature_layers={layers!r} is not allowed: use 'last', 'all' or a list of integers")

    def _check_numbers(self) -> None:
        sizes = self.hidden_sizes
        if not isinstance(sizes, list) or not all(_is_integer(size) and size > 0 for size in sizes):
            raise ValueError(
                f"hidden_sizes={sizes!r} is not allowed: use a list of positive integers, or [] for linear"
            )
        if not _is_integer(self.degree) or self.degree < 1:
            raise ValueError(f"degree={self.degree!r} is not allowed: use an integer, 1 or above")
        for name, low, high, rule in (
            ("dropout", 0.0, 1.0, "0 or above and below 1"),
            ("label_smoothing", 0.0, 1.0, "0 or above and below 1"),
            ("dreg_lambda", 0.0, math.inf, "a finite number, 0 or above"),
        ):
            value = getattr(self, name)
            if not (_is_number(value) and low <= value < high):
                raise ValueError(f"{name}={value!r} is not allowed: use {rule}")
        reach = self.polynomial_range
        if reach is not None and not (_is_number(reach) and 0 < reach < math.inf):
            raise ValueError(f"polynomial_range={reach!r} is not allowed: use a number above 0, or null for no tails")
        for name in ("dreg_num_tangents", "max_seq_length"):
            value = getattr(self, name)
            if value is not None and not (_is_integer(value) and value > 0):
                raise ValueError(f"{name}={value!r} is not allowed: use a positive integer or null")

    def _check_problem(self) -> None:
        if self.backbone_config is None and not (_is_integer(self.in_features) and self.in_features > 0):
            raise ValueError(
                f"in_features={self.in_features!r} is not allowed without a backbone_config: "
                "use a positive integer, the width of the features (or start from a pretrained backbone with "
                "CRForSequenceClassification.from_backbone)"
            )
        if self.problem_type not in PROBLEM_TYPES:
            raise ValueError(
                f"problem_type={self.problem_type!r} is not allowed: use one of {', '.join(PROBLEM_TYPES)} "
                "(ordered classes are objective='ordinal')"
            )
        single = self.problem_type == "single_label_classification"
        if self.objective == "ordinal" and not (single and self.num_labels != 1):
            raise ValueError(
                f"objective='ordinal' needs two or more ordered classes, got problem_type={self.problem_type!r} and "
                f"num_labels={self.num_labels}"
            )
        for name, needed in (
            ("class_weights", "single_label_classification"),
            ("pos_weight", "multi_label_classification"),
        ):
            values = getattr(self, name)
            if values is None:
                continue
            if self.problem_type != needed:
                raise ValueError(f"{name} is only for problem_type={needed!r}, got {self.problem_type!r}")
            listed = isinstance(values, list | tuple) and len(values) == self.num_labels
            if not listed or not all(_is_number(v) and 0 <= v < math.inf for v in values):
                raise ValueError(f"{name}={values!r} is not allowed: use {self.num_labels} numbers, 0 or above")
        if self.label_smoothing and not single:
            raise ValueError(
                f"label_smoothing={self.label_smoothing} is only for single_label_classification, "
                f"got problem_type={self.problem_type!r}"
            )


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _read_backbone_config(values: Any) -> PreTrainedConfig | None:
    if values is None or isinstance(values, PreTrainedConfig):
        return values
    if not isinstance(values, dict):
        raise ValueError(f"backbone_config={values!r} is not allowed: use a configuration object, its dict or null")
    model_type = values.get("model_type")
    if not model_type:
        raise ValueError("backbone_config has no model_type: give a configuration of the backbone, or its whole dict")
    if model_type not in CONFIG_MAPPING:
        raise ValueError(
            f"backbone_config has model_type={model_type!r}, which transformers {transformers.__version__} does not "
            "know: upgrade transformers, or pass the backbone's configuration as an object"
        )
    return CONFIG_MAPPING[model_type].from_dict(values)


def refuse_unknown_fields(values: Iterable[str]) -> None:
    """Refuse names that are no field of `CRConfig`, which would otherwise be kept and never read.

    Raises:
        ValueError: naming the first unknown field and the known ones.
    """
    known = set(inspect.signature(CRConfig.__init__).parameters) - {"self", "kwargs", "backbone_config"}
    known |= {"num_labels", "id2label", "label2id", "problem_type"}
    for name in values:
        if name not in known:
            raise ValueError(f"{name} is not a field of CRConfig: use one of {', '.join(sorted(known))}")
