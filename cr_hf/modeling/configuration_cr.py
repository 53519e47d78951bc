"""`CRConfig`: everything that defines a CR classifier, on a backbone or on ready-made features."""

from __future__ import annotations

import difflib
import math
import reprlib
from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from transformers import AutoConfig, PreTrainedConfig

from .activations import ACTIVATIONS
from .backbone_config import NO_LIMIT, positions_of, read_backbone_config, width_of
from .dreg import DREG_MODES
from .static_embeddings import StaticEmbeddingConfig as StaticEmbeddingConfig  # so that transformers knows its type

POOLINGS = ("cls", "mean", "max", "last")
FEATURE_NORMS = ("standardize", "layer_norm")
PROBLEM_TYPES = ("single_label_classification", "multi_label_classification", "regression")
MAX_LAYERS = 1_000  # of a backbone or a head: each is built, even to find that there are no weights for it
MAX_DEGREE = 32  # powers beyond it leave the range of float32 soon after z = 6
SQUARED_EMD_WEIGHT = 0.5  # chosen on validation rows, see docs/ordered_classes.md
MAX_LABELS = 1_000_000  # transformers makes a name for each before anything else could be checked
OF_BACKBONE = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
# What `PreTrainedConfig` reads although it is no field of it.
OTHER_FIELDS = (
    *("num_labels", "name_or_path", "torch_dtype", "attn_implementation", "experts_implementation"),
    *("output_attentions", "output_hidden_states", "model_type", "auto_map", "quantization_config"),
)
NOT_BY_NAME = (
    *("backbone_config", "backbone_source", "head_only"),
    *("sub_configs", "keys_to_ignore_at_inference"),
)
Rule: TypeAlias = tuple[Callable[[Any], bool], str]
ALLOWED: dict[str, tuple[Any, ...]] = {
    "activation": ACTIVATIONS,
    "coefficient_init": ("hermite", "identity"),
    "pooling": POOLINGS,
    "feature_norm": FEATURE_NORMS,
    "objective": ("cross_entropy", "ordinal"),
    "ordinal_loss": ("squared_emd", "cumulative_link"),
    "dreg_mode": DREG_MODES,
    "freeze_backbone": (True, False),
}


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return _is_integer(value) and value > 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


def _is_list_of(is_item: Callable[[Any], bool], value: Any) -> bool:
    return isinstance(value, list) and len(value) <= MAX_LAYERS and all(map(is_item, value))


# For each field: whether a value is allowed, and what to use instead.
SHARE: Rule = (lambda value: _is_number(value) and value < 1, "0 or above and below 1")
COUNT_OR_NULL: Rule = (lambda value: value is None or _is_count(value), "a positive integer or null")
RULES: dict[str, Rule] = {
    **{name: (allowed.__contains__, f"one of {', '.join(map(str, allowed))}") for name, allowed in ALLOWED.items()},
    "dreg_mode": (
        DREG_MODES.__contains__,
        "one of layer, worst, chain (of the head: there is no penalty through the backbone)",
    ),
    "feature_layers": (
        lambda value: value in ("last", "all") or (bool(value) and _is_list_of(_is_integer, value)),
        f"'last', 'all' or a list of integers, {MAX_LAYERS} at most",
    ),
    "hidden_sizes": (
        lambda value: _is_list_of(_is_count, value),
        f"a list of positive integers, {MAX_LAYERS} at most, or [] for linear",
    ),
    "degree": (
        lambda value: _is_count(value) and value <= MAX_DEGREE,
        f"an integer, 1 or above, {MAX_DEGREE} at most",
    ),
    "dropout": SHARE,
    "label_smoothing": SHARE,
    "soft_labels": (
        lambda value: value is None or (_is_number(value) and value > 0),
        "a number above 0, or null for hard targets",
    ),
    "dreg_lambda": (_is_number, "a finite number, 0 or above"),
    "polynomial_range": (
        lambda value: value is None or (_is_number(value) and value > 0),
        "a number above 0, or null for no tails",
    ),
    "dreg_num_tangents": COUNT_OR_NULL,
    "max_seq_length": COUNT_OR_NULL,
    "num_labels": (lambda value: _is_count(value) and value <= MAX_LABELS, f"an integer from 1 to {MAX_LABELS}"),
    "return_dict": (lambda value: value is not False, "True: a CR model returns an object"),
}


class CRConfig(PreTrainedConfig):
    """Configuration of `CRForSequenceClassification` and `CRForFeatureClassification`.

    Args:
        backbone_config: configuration of the `AutoModel` that makes the features, as an object or a dict with
            `model_type`; `None` for a feature model.
        in_features: width of the features; computed from the backbone if there is one, else required.
        hidden_sizes: units of each CR layer, (128, 128) by default; empty for a linear head.
        degree: of the polynomials, 3 by default.
        activation: `"polynomial"`, or a fixed one, such as gelu or relu, for an ordinary MLP head.
        coefficient_init: `"hermite"` (default) or `"identity"`.
        polynomial_range: where the polynomials' linear tails begin, 1.5 by default; `None` turns them off, and with
            them the Lipschitz bound.
        dropout: after each CR layer, 0.1 by default.
        pooling: `"mean"` (default), `"cls"` (first token), `"max"` or `"last"` (last token) over attended tokens.
        feature_layers: `"last"` (default), `"all"`, or a list of hidden-state indices (0 is the embeddings) whose
            pooled vectors are concatenated.
        feature_norm: `"standardize"` (default for a frozen backbone and for a feature model) or `"layer_norm"`
            (default for fine-tuning).
        objective: `"cross_entropy"` (default) or `"ordinal"` (labels are ordered classes).
        ordinal_loss: of the ordinal objective, `"squared_emd"` (default; cross-entropy plus the squared earth mover's
            distance) or `"cumulative_link"` (one score and ordered thresholds).
        freeze_backbone: keep the backbone's weights and its dropout off; False by default.
        dreg_lambda: the DREG coefficient, 0.02 by default. The penalty sums over units, so the useful size depends on
            `hidden_sizes`.
        dreg_mode: `"layer"` (default; of the batch's examples), `"worst"` (of the steepest input there could be) or
            `"chain"`, see `dreg.py`.
        dreg_num_tangents: random directions of the chain mode, 8 by default; `None` for the exact norm.
        label_smoothing: share of the target spread over all classes, 0.0 by default.
        soft_labels: for ordered classes, g of the targets softmax(-g (class - label)**2): the neighbours of a label
            get a share of it, the more the smaller g. `None` by default, 1.0 is a good value.
        class_weights: one factor per class, mean 1 over the training set; `None` by default.
        pos_weight: one factor per label for multi-label classification; `None` by default.
        max_seq_length: texts are cut to this many tokens; `None` leaves it to the tokenizer.
        backbone_source: where a frozen backbone can be had again; set by `from_backbone`.
        head_only: the checkpoint leaves the backbone's weights there; set by loading and saving.
        **kwargs: fields of `PreTrainedConfig`, `num_labels` above all.

    Raises:
        ValueError: naming the field, its value and what is allowed. Unknown fields of a checkpoint are kept.

    Examples:
        >>> CRConfig(in_features=8, num_labels=2, hidden_sizes=(32,)).num_layers
        2
    """

    model_type = "cr"
    sub_configs: ClassVar[dict[str, Any]] = {"backbone_config": AutoConfig}
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["task_loss", "dreg"]

    backbone_config: Any = None
    in_features: Any = None
    hidden_sizes: Any = (128, 128)
    degree: int = 3
    activation: str = "polynomial"
    coefficient_init: str = "hermite"
    polynomial_range: float | None = 1.5
    dropout: float = 0.1
    pooling: str = "mean"
    feature_layers: Any = "last"
    feature_norm: str | None = None
    objective: str = "cross_entropy"
    ordinal_loss: str = "squared_emd"
    freeze_backbone: bool = False
    dreg_lambda: float = 0.02
    dreg_mode: str = "layer"
    dreg_num_tangents: int | None = 8
    label_smoothing: float = 0.0
    soft_labels: float | None = None
    class_weights: list[float] | None = None
    pos_weight: list[float] | None = None
    max_seq_length: int | None = None
    backbone_source: dict[str, Any] | None = None
    head_only: bool = False

    if TYPE_CHECKING:  # transformers makes the constructor

        def __init__(self, **kwargs: Any) -> None: ...

    def __post_init__(self, **kwargs: Any) -> None:
        for name in kwargs:
            if not _is_known(name):
                near = difflib.get_close_matches(name, NAMES, 1)
                hint = f", did you mean {near[0]}?" if near else ":"
                raise ValueError(f"{name} is not a field of CRConfig{hint} use one of {', '.join(NAMES)}")
        self.backbone_config = read_backbone_config(self.backbone_config)
        for name in ("hidden_sizes", "feature_layers"):
            value = getattr(self, name)
            setattr(self, name, list(value) if isinstance(value, list | tuple) else value)
        if self.feature_norm is None:
            frozen = self.backbone_config is None or self.freeze_backbone
            self.feature_norm = "standardize" if frozen else "layer_norm"
        for name, (is_allowed, rule) in RULES.items():
            value = kwargs.get("num_labels", 1) if name == "num_labels" else getattr(self, name)
            if not is_allowed(value):
                raise ValueError(f"{name}={reprlib.repr(value)} is not allowed: use {rule}")
        if self.backbone_config is not None:
            self._check_backbone()
            self.in_features = self._backbone_features(self.in_features)
        problem_type, self.problem_type = self.problem_type, None
        super().__post_init__(**kwargs)
        default = "regression" if self.num_labels == 1 else "single_label_classification"
        self.problem_type = problem_type or default  # type: ignore[assignment]
        self._check_problem()

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """The configuration of a checkpoint. Fields that only a later version knows are kept, not refused."""
        if config_dict.get("objective") == "ordinal" and "ordinal_loss" not in config_dict:  # of version 0.1.0
            config_dict = {**config_dict, "ordinal_loss": "cumulative_link"}
        later = {name: value for name, value in config_dict.items() if not _is_known(name)}
        known = {name: value for name, value in config_dict.items() if name not in later}
        loaded = super().from_dict(known, **kwargs)
        vars(loaded[0] if isinstance(loaded, tuple) else loaded).update(later)
        return loaded

    def to_dict(self) -> dict[str, Any]:
        """All fields, as `config.json` holds them, without the backbone's folder and quantisation."""
        values = super().to_dict()
        if values.get("backbone_config") is not None:
            for name in ("_name_or_path", "quantization_config"):
                values["backbone_config"].pop(name, None)
        return values

    @property
    def num_layers(self) -> int:
        """Entries of the per-layer DREG: the CR layers and the readout."""
        return len(self.hidden_sizes) + 1

    @property
    def is_ordered(self) -> bool:
        """Whether the classes are ordered, lowest first."""
        return self.objective == "ordinal" or self.soft_labels is not None

    @property
    def is_cumulative_link(self) -> bool:
        """Whether the head has one score and ordered thresholds in place of a logit a class."""
        return self.objective == "ordinal" and self.ordinal_loss == "cumulative_link"

    @property
    def squared_emd(self) -> float:
        """Weight of the squared earth mover's distance in the loss."""
        return SQUARED_EMD_WEIGHT if self.objective == "ordinal" and not self.is_cumulative_link else 0.0

    def set_label_smoothing(self, share: float) -> None:
        """Set `label_smoothing`.

        Raises:
            ValueError: if there are soft labels.
        """
        if share and self.soft_labels is not None:
            raise ValueError(
                f"label_smoothing={share} and soft_labels={self.soft_labels} both change the targets: use one"
            )
        self.label_smoothing = share

    @property
    def feature_layer_indices(self) -> list[int] | None:
        """Hidden-state indices that are pooled, or `None` for the last hidden state alone."""
        if self.feature_layers == "last":
            return None
        if self.feature_layers == "all":
            return list(range(getattr(self.backbone_config.get_text_config(), "num_hidden_layers", 0) + 1))
        return self.feature_layers

    @property
    def max_positions(self) -> int:
        """Tokens that the backbone has positions for; a very large number if it says nothing of them."""
        return positions_of(self.backbone_config)

    def max_length_for(self, tokenizer: Any) -> int:
        """Tokens a text is cut to: the least of what this configuration, the tokenizer and the positions allow."""
        # A tokenizer that knows no limit says 1e30, which its own truncation cannot take.
        return min(self.max_seq_length or NO_LIMIT, tokenizer.model_max_length, self.max_positions)

    def require_features(self) -> None:
        """Refuse a configuration without a width of the features: `CRConfig()` describes no head yet.

        Raises:
            ValueError: saying what to give.
        """
        if not _is_count(self.in_features):
            raise ValueError(
                f"in_features={self.in_features!r} is not allowed without a backbone_config: "
                "use a positive integer, the width of the features (or start from a pretrained backbone with "
                "CRForSequenceClassification.from_backbone)"
            )

    def __getattr__(self, name: str) -> Any:
        # peft, DeepSpeed and others read these of any model.
        backbone = vars(self).get("backbone_config") if name in OF_BACKBONE else None
        if backbone is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        backbone = backbone.get_text_config()
        return width_of(backbone, vars(self).get("in_features")) if name == "hidden_size" else getattr(backbone, name)

    def _check_backbone(self) -> None:
        """Refuse what would fail, or be no number, only when a text is classified."""
        text_config = self.backbone_config.get_text_config()
        for name, value in {**self.backbone_config.to_dict(), **text_config.to_dict()}.items():
            if value != value:
                raise ValueError(f"backbone_config has {name}={value}: use a number")
            if name == "return_dict" and value is False:
                raise ValueError("backbone_config has return_dict=False: use True")
            if name == "chunk_size_feed_forward" and value not in (0, 1):
                raise ValueError(f"backbone_config has {name}={value}, which divides only some lengths of text: use 0")
        layers = getattr(text_config, "num_hidden_layers", 0)
        if not (_is_integer(layers) and 0 <= layers <= MAX_LAYERS):
            raise ValueError(f"the backbone's num_hidden_layers={layers!r} is not allowed: use 0 to {MAX_LAYERS}")

    def _backbone_features(self, given: int | None) -> int:
        text_config, indices = self.backbone_config.get_text_config(), self.feature_layer_indices
        states = getattr(text_config, "num_hidden_layers", 0) + 1
        if indices is not None and (hasattr(text_config, "depths") or not hasattr(text_config, "num_hidden_layers")):
            raise ValueError(
                f"feature_layers={self.feature_layers}: the layers of a backbone of type {text_config.model_type} "
                "differ in width: use feature_layers='last'"
            )
        for index in indices or ():
            if not -states <= index < states:
                raise ValueError(
                    f"feature_layers={self.feature_layers} names hidden state {index}, but the backbone has {states} "
                    f"(0 is the embeddings): use 0 to {states - 1}"
                )
        width = width_of(text_config, given) * (1 if indices is None else len(indices))
        if given is not None and given != width:
            raise ValueError(
                f"in_features={given} disagrees with the backbone, which gives {width} features: leave in_features out"
            )
        return width

    def _check_problem(self) -> None:
        if self.in_features is not None:
            self.require_features()
        if self.problem_type not in PROBLEM_TYPES:
            raise ValueError(
                f"problem_type={self.problem_type!r} is not allowed: use one of {', '.join(PROBLEM_TYPES)} "
                "(ordered classes are objective='ordinal')"
            )
        is_single = self.problem_type == "single_label_classification"
        if self.objective == "ordinal" and (not is_single or self.num_labels == 1):
            raise ValueError(
                f"objective='ordinal' needs two or more ordered classes, got problem_type={self.problem_type!r} and "
                f"num_labels={self.num_labels}"
            )
        for name in ("label_smoothing", "soft_labels"):
            if getattr(self, name) and not is_single:
                raise ValueError(
                    f"{name}={getattr(self, name)} is only for single_label_classification, "
                    f"got problem_type={self.problem_type!r}"
                )
        self.set_label_smoothing(self.label_smoothing)
        is_bounded = self.polynomial_range is not None and self.degree <= 3
        if self.dreg_mode == "worst" and self.activation == "polynomial" and not is_bounded:
            raise ValueError(
                f"dreg_mode='worst' needs a polynomial_range and a degree of 3 or below, got polynomial_range="
                f"{self.polynomial_range} and degree={self.degree}"
            )
        for name, needed in (("class_weights", PROBLEM_TYPES[0]), ("pos_weight", PROBLEM_TYPES[1])):
            values = getattr(self, name)
            if values is None:
                continue
            if self.problem_type != needed:
                raise ValueError(f"{name} is only for problem_type={needed!r}, got {self.problem_type!r}")
            is_whole = isinstance(values, list | tuple) and len(values) == self.num_labels
            if not (is_whole and all(map(_is_number, values))):
                raise ValueError(f"{name}={values!r} is not allowed: use {self.num_labels} numbers, 0 or above")


def _is_known(name: str) -> bool:
    return name.startswith("_") or name in OTHER_FIELDS or name in {field.name for field in fields(CRConfig)}


# What a user may set by name; the other fields are set by loading and saving.
OWN_FIELDS = tuple(name for name in CRConfig.__annotations__ if name not in NOT_BY_NAME)
NAMES = sorted([*OWN_FIELDS, "num_labels", "id2label", "label2id", "problem_type"])
