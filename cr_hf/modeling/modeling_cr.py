"""CR classifiers as transformers models: a head on ready-made features, or on any `AutoModel` backbone."""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import can_return_tuple, logging

from .certificates import certified_radius
from .configuration_cr import CRConfig
from .head import CRClassifierOutput as CRClassifierOutput
from .head import CRHead
from .layers import CRLayer, Standardize, feature_moments, pool
from .loading import (
    HUB_OPTIONS,
    WHOLE_WEIGHTS,
    backbone_path,
    backbone_source,
    check_files,
    check_loaded,
    check_weight_files,
    load_backbone,
    load_source,
    new_backbone,
    refuse_changed,
    sentence_transformers_settings,
)
from .objectives import OrderedThresholds, task_loss
from .texts import hidden_states, padded_batches, prepare_tokenizer, tokenize

logger = logging.get_logger(__name__)


class CRPreTrainedModel(PreTrainedModel):
    """What the two CR models share: the head, its loss and its initialisation."""

    config: CRConfig
    classifier: CRHead
    config_class = CRConfig
    base_model_prefix = "backbone"
    accepts_loss_kwargs = False
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

    def _classify(self, features: Tensor, labels: Tensor | None, output_dreg: bool | None) -> CRClassifierOutput:
        wanted = self.training if output_dreg is None else output_dreg
        logits, dreg = self.classifier(features, output_dreg=wanted)
        if labels is None:
            return CRClassifierOutput(logits=logits, dreg=dreg)
        config = self.config
        loss = task_loss(
            logits,
            labels,
            str(config.problem_type),
            config.class_weights,
            config.label_smoothing,
            config.pos_weight,
            config.soft_labels,
            config.squared_emd,
        )
        total = loss + config.dreg_lambda * dreg.sum() if self.training and dreg is not None else loss
        return CRClassifierOutput(loss=total, logits=logits, task_loss=loss, dreg=dreg)


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


class CRForSequenceClassification(CRPreTrainedModel):
    """A CR head on any `AutoModel` backbone, frozen or fine-tuned.

    Use `from_backbone` to start from a pretrained backbone, `from_pretrained` to load a finished classifier.
    """

    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: CRConfig, backbone: PreTrainedModel | None = None) -> None:
        if config.backbone_config is None:
            raise ValueError(
                "config.json has no backbone_config: this is a feature model, load it with "
                "CRForFeatureClassification.from_pretrained"
            )
        super().__init__(config)
        self.backbone: Any = new_backbone(config.backbone_config) if backbone is None else backbone
        self._takes = frozenset(inspect.signature(self.backbone.forward).parameters)
        if getattr(self.backbone, "pooler", None) is not None:
            # It would never get a gradient: the features are pooled hidden states.
            self.backbone.pooler = nn.Identity()
        self.classifier = CRHead(config)
        self._freeze()
        self.post_init()

    @classmethod
    def from_backbone(
        cls,
        backbone_name_or_path: str,
        *,
        revision: str | None = None,
        trust_remote_code: bool = False,
        dtype: str | torch.dtype = torch.float32,
        attn_implementation: str | None = None,
        **config_kwargs: Any,
    ) -> CRForSequenceClassification:
        """A fresh CR head on a pretrained backbone.

        A sentence-transformers repository or folder also gives its pooling and its maximum length, unless they are
        given here; not its normalisation of embeddings.

        Args:
            backbone_name_or_path: a Hub id, a local folder, or "offline" (packaged); see `backbone_path`.
            revision: Hub branch, tag or commit.
            trust_remote_code: allow a backbone whose code lives in its repository.
            dtype: of the backbone, float32 by default; the head is always float32.
            attn_implementation: of the backbone, `None` for transformers' own choice.
            **config_kwargs: fields of `CRConfig`: `num_labels`, `freeze_backbone`, `pooling`, `feature_layers`, ...

        Raises:
            ValueError: if a field is not allowed, the kind of backbone is not supported, or weights are missing.
            OSError: if the backbone cannot be found.
        """
        backbone_name_or_path = backbone_path(backbone_name_or_path)
        hub_kwargs: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
        backbone_config = AutoConfig.from_pretrained(backbone_name_or_path, **hub_kwargs)
        found = sentence_transformers_settings(backbone_name_or_path, revision)
        if backbone_config.model_type == CRConfig.model_type:
            raise ValueError("a CR checkpoint is no backbone: name the one that it was trained on")
        if "backbone_config" in config_kwargs:
            raise ValueError("backbone_config is not a field of CRConfig to give here: it comes with the backbone")
        config = CRConfig(backbone_config=backbone_config, **{**found, **config_kwargs})
        if not trust_remote_code and Path(backbone_name_or_path).is_dir():
            check_weight_files(Path(backbone_name_or_path), lambda: new_backbone(backbone_config))
        options: dict[str, Any] = {"dtype": dtype, "attn_implementation": attn_implementation, **hub_kwargs}
        backbone = load_backbone(backbone_name_or_path, backbone_config, **options)
        if config.freeze_backbone:
            config.backbone_source = backbone_source(backbone_name_or_path, revision)
        return cls(config, backbone=backbone).eval()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a saved classifier; for a head-only one the backbone is fetched from its source and checked.

        Raises:
            OSError: if the backbone is missing or has changed.
            ValueError: if the checkpoint lacks a tensor.
        """
        path = pretrained_model_name_or_path
        config: Any = kwargs.get("config")
        if not isinstance(config, PreTrainedConfig):
            given: Any = {name: value for name, value in kwargs.items() if name != "config"}
            config = CRConfig.from_pretrained(config or path, **given)
        if not getattr(config, "head_only", False):
            return super().from_pretrained(path, *args, **kwargs)
        head_config = CRConfig.from_dict({**config.to_dict(), "backbone_config": None})
        hub = {name: kwargs[name] for name in (*HUB_OPTIONS, "revision", "subfolder") if name in kwargs}
        options: Any = {"config": head_config, "output_loading_info": True, **hub}
        head, info = CRForFeatureClassification.from_pretrained(path, **options)
        model = cls(config, backbone=load_source(config, kwargs)).eval()
        model.classifier.load_state_dict(head.classifier.state_dict())
        model.classifier.to(model.backbone.device)
        config.name_or_path = model.name_or_path = str(path)
        model._leave_backbone_out(True)
        return (model, info) if kwargs.get("output_loading_info") else model

    def save_pretrained(self, save_directory: Any, *args: Any, head_only: bool | None = None, **kwargs: Any) -> None:
        """Save as `PreTrainedModel.save_pretrained` does, with the backbone's weights or without them (`head_only`).

        By default a model is saved as it was loaded.

        Raises:
            ValueError: if the backbone was trained, or others cannot get it where it came from.
        """
        before = self.config.head_only
        self.config.head_only = before if head_only is None else head_only
        try:
            if self.config.head_only:
                refuse_changed(self.config, self.backbone)
            self._leave_backbone_out(self.config.head_only)
            super().save_pretrained(save_directory, *args, **kwargs)
        finally:
            self.config.head_only = before
            self._leave_backbone_out(before)

    def _leave_backbone_out(self, wanted: bool) -> None:
        names = {name for name in self.state_dict() if name.startswith("backbone.")}
        kept: Any = set(self._keys_to_ignore_on_save or ()) - names
        self._keys_to_ignore_on_save = kept | names if wanted else kept

    def train(self, mode: bool = True) -> CRForSequenceClassification:
        """Set training mode; a backbone without a trainable parameter stays in evaluation mode, its dropout off."""
        super().train(mode)
        if mode and not self._backbone_trains():
            self.backbone.eval()
        return self

    def get_features(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """The pooled backbone output that the head reads, shape (batch, in_features).

        Args:
            input_ids, token_type_ids: shape (batch, length); the latter are passed on if the backbone takes them.
            attention_mask: 1 on attended tokens, shape (batch, length); all of them by default.
            inputs_embeds: instead of input_ids, shape (batch, length, hidden_size).
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        given: Any = input_ids if inputs_embeds is None else inputs_embeds
        if given.shape[1] == 0:  # a text without a token, of a tokenizer that adds none
            return torch.zeros(len(given), self.config.in_features, device=self.device)
        inputs = {"input_ids": input_ids, "inputs_embeds": inputs_embeds}
        inputs |= {"attention_mask": attention_mask, "token_type_ids": token_type_ids}
        config = self.config
        trains = self._backbone_trains() or (inputs_embeds is not None and inputs_embeds.requires_grad)
        with contextlib.nullcontext() if trains else torch.no_grad():
            states, mask = hidden_states(
                self.backbone, self._takes, inputs, config.feature_layer_indices, config.max_positions
            )
            return torch.cat([pool(state, mask, config.pooling) for state in states], dim=-1)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_dreg: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> CRClassifierOutput:
        """Classify texts.

        Args:
            input_ids, attention_mask, token_type_ids, inputs_embeds: see `get_features`.
            labels: see `task_loss`.
            output_dreg: compute DREG; by default while training only.
            output_attentions, output_hidden_states: only for peft, which always passes them.
        """
        if output_attentions or output_hidden_states:
            raise ValueError("a CR model returns neither attentions nor hidden states: call model.backbone for them")
        features = self.get_features(input_ids, attention_mask, token_type_ids, inputs_embeds)
        return self._classify(features, labels, output_dreg)

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> Any:
        """Resize the backbone's token embeddings, as `PreTrainedModel` does, and note it in our configuration."""
        embeddings: Any = self.backbone.resize_token_embeddings(*args, **kwargs)
        self.config.backbone_config.get_text_config().vocab_size = embeddings.num_embeddings
        return embeddings

    @torch.no_grad()
    def predict_texts(
        self, texts: Sequence[str], tokenizer: Any, text_pairs: Sequence[str] | None = None, token_budget: int = 4096
    ) -> Tensor:
        """Logits of raw texts, shape (len(texts), num_labels), on the CPU; `softmax(-1)` gives class probabilities.

        They are computed in batches of similar length, `token_budget` tokens with padding, and returned in the order
        given. Neither the tokenizer nor the model is changed, so threads may share them.
        """
        own = prepare_tokenizer(tokenizer, self.config.max_length_for(tokenizer))
        encoded = tokenize(own, texts, text_pairs)
        model, logits = self.evaluating(), torch.empty(len(texts), cast(int, self.config.num_labels))
        for rows, batch in padded_batches(own, encoded, token_budget):
            logits[rows] = model(**batch.to(self.device)).logits.float().cpu()
        return logits

    def _backbone_trains(self) -> bool:
        return any(parameter.requires_grad for parameter in self.backbone.parameters())
