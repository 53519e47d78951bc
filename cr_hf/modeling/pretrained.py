"""What every CR model shares, and the one on ready-made features."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import can_return_tuple, logging

from .certificates import certified_radius
from .configuration_cr import CRConfig
from .head import CRClassifierOutput, CRHead
from .layers import CRLayer, Standardize, feature_moments
from .loading import WHOLE_WEIGHTS, check_files, check_loaded
from .objectives import OrderedThresholds, configured_loss
from .texts import Encoded

logger = logging.get_logger(__name__)


class CRPreTrainedModel(PreTrainedModel):
    """What all CR models share: the head, its loss and its initialisation."""

    config: CRConfig
    classifier: CRHead
    config_class = CRConfig
    base_model_prefix = "backbone"
    accepts_loss_kwargs = False
    label_level: ClassVar[str] = "row"
    _keep_in_fp32_modules_strict = {"classifier"}  # noqa: RUF012

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a saved classifier, as `PreTrainedModel.from_pretrained` does.

        Raises:
            OSError: if there are no safetensors weights, or they are damaged.
            ValueError: if a tensor is missing or of another shape: it would otherwise be filled with random values.
        """
        check_files(cls, pretrained_model_name_or_path, kwargs)
        report, resizes = (kwargs.pop(name, False) for name in ("output_loading_info", "ignore_mismatched_sizes"))
        options: Any = {**kwargs, **WHOLE_WEIGHTS}
        model, info = cast(Any, super().from_pretrained(pretrained_model_name_or_path, *args, **options))
        check_loaded(pretrained_model_name_or_path, model, info, resizes)
        model._freeze()
        if not model.is_fitted:
            logger.warning(f"{pretrained_model_name_or_path} was saved before its feature statistics were fitted")
        return (model, info) if report else model

    def __repr__(self) -> str:
        """One line; `print(model.backbone)` and `print(model.classifier)` show the modules."""
        config = self.config
        source = "features" if config.backbone_config is None else config.backbone_config.model_type
        widths = " -> ".join(map(str, (config.in_features, *config.hidden_sizes, config.num_labels)))
        return f"{type(self).__name__}({source}, {widths}, {config.activation}, dreg_lambda={config.dreg_lambda:g})"

    def _freeze(self) -> None:
        """Also after loading, which makes every parameter trainable again."""
        if self.config.freeze_backbone and hasattr(self, "backbone"):
            self.backbone.requires_grad_(False)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.LayerNorm | Standardize | OrderedThresholds):
            module.reset_parameters()
        elif isinstance(module, CRLayer):
            module.reset_coefficients()

    @property
    def is_fitted(self) -> bool:
        """Whether the head can predict: its feature statistics, if it has any, are set."""
        # Asked once after loading: asked first inside torch.compile, it would break the graph.
        return all(module.is_fitted for module in self.modules() if isinstance(module, Standardize))

    def evaluating(self) -> Self:
        """The model in evaluation mode: itself, or while it trains a copy that shares its weights."""
        if not any(module.training for module in self.modules()):
            return self
        shared: dict[int, Any] = {id(value): value for value in (*self.parameters(), *self.buffers())}
        return copy.deepcopy(self, shared).eval()

    def seed_tangents(self, seed: int) -> None:
        """Fix the random directions of the next chained DREG; the trainer passes a function of seed and step."""
        for module in self.modules():
            if isinstance(module, CRHead):
                module.tangent_seed = seed

    @torch.no_grad()
    def fit_feature_norm(self, features: Tensor | Iterable[Tensor]) -> int:
        """Fit the standardisation on all training rows, shape (rows, in_features), or an iterable of batches of them.

        `CRTrainer` does this by itself. Returns how many features are constant over these rows; they are left out.

        Raises:
            ValueError: if the model does not standardise, there is no row, or a feature is not finite.
        """
        return self.set_feature_moments(*feature_moments([features] if isinstance(features, Tensor) else features))

    def set_feature_moments(self, count: int, mean: Tensor, squares: Tensor) -> int:
        """`fit_feature_norm` from the moments that `feature_moments` returns."""
        norms = [module for module in self.modules() if isinstance(module, Standardize)]
        if not norms:
            raise ValueError(f"feature_norm={self.config.feature_norm!r} has no statistics to fit")
        left_out = max(norm.set_statistics(mean, squares / count) for norm in norms)
        if left_out:
            logger.warning(f"{left_out} of {len(mean)} features are constant over the training rows and are left out")
        return left_out

    def certified_radius(self, *inputs: Any, **named_inputs: Any) -> Tensor:
        """For each row the L2 radius in normalised features within which the predicted class cannot change.

        Args:
            *inputs, **named_inputs: those of `get_features`: features, or token ids and their mask.

        Returns:
            Shape (rows,), float64, on the CPU, in standard deviations of a feature over the training rows.

        Raises:
            ValueError: if the model has no classes of which one is right, or a feature is not finite.
        """
        with torch.no_grad():
            features = cast(Any, self.evaluating()).get_features(*inputs, **named_inputs)
            return certified_radius(self.classifier, features)

    def _classify(
        self, features: Tensor, labels: Tensor | None, output_dreg: bool | None, encoded: Encoded | None = None
    ) -> CRClassifierOutput:
        logits, dreg = self.classifier(features, output_dreg=self._wants_dreg(output_dreg))
        return self._output(logits, dreg, None if labels is None else self.task_loss(logits, labels), encoded)

    def _wants_dreg(self, output_dreg: bool | None) -> bool:
        return self.training if output_dreg is None else output_dreg

    def task_loss(self, logits: Tensor, labels: Tensor, row_weights: Tensor | None = None) -> Tensor:
        """The loss without DREG, a mean over rows: see `configured_loss` in objectives.py."""
        return configured_loss(self.config, logits, labels, row_weights)

    def _output(
        self, logits: Tensor, dreg: Tensor | None, loss: Tensor | None, encoded: Encoded | None
    ) -> CRClassifierOutput:
        total = loss
        if loss is not None and self.training and dreg is not None:
            total = loss + self.config.dreg_lambda * dreg.sum()
        states, attentions = (None, None) if encoded is None else (encoded.hidden_states, encoded.attentions)
        return CRClassifierOutput(
            loss=total, logits=logits, task_loss=loss, dreg=dreg, hidden_states=states, attentions=attentions
        )


class CRForFeatureClassification(CRPreTrainedModel):
    """A CR head on ready-made features: cached text features, the columns of a table, pixels."""

    main_input_name = "features"

    def __init__(self, config: CRConfig) -> None:
        super().__init__(config)
        self.classifier = CRHead(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self, features: Tensor, labels: Tensor | None = None, output_dreg: bool | None = None
    ) -> CRClassifierOutput:
        """Classify features of shape (batch, in_features); the rest as in `CRForSequenceClassification.forward`."""
        return self._classify(features, labels, output_dreg)

    def get_features(self, features: Tensor) -> Tensor:
        """What the head reads: the features themselves."""
        return features
