"""What every CR model on a backbone shares: starting from one, running it, saving with or without it."""

from __future__ import annotations

import contextlib
import copy
import inspect
import re
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from .configuration_cr import CRConfig
from .given_backbones import given_backbone, sentence_transformers_settings, static_embeddings_of
from .head import CRHead
from .layers import pool
from .loading import (
    HUB_OPTIONS,
    backbone_path,
    backbone_source,
    check_weight_files,
    load_backbone,
    load_source,
    new_backbone,
    refuse_changed,
    tower,
)
from .pretrained import CRForFeatureClassification, CRPreTrainedModel
from .texts import Encoded

# By kind of backbone, parameters that only its pooled output or masked pretraining reads: they never get a gradient.
UNREAD = re.compile(r"siglip2?_vision_model head\.|clip_vision_model post_layernorm\.|\S+ embeddings\.mask_token$")


class CRBackboneModel(CRPreTrainedModel):
    """A CR head on a backbone; a subclass for each task says what the head reads and what the loss is."""

    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    auto_class: ClassVar[str]
    auto_processor: ClassVar[str] = "AutoTokenizer"
    pipeline_tag: ClassVar[str]
    reads: ClassVar[tuple[str, ...]] = ("input_ids",)
    config_defaults: ClassVar[dict[str, Any]] = {}

    def __init__(self, config: CRConfig, backbone: PreTrainedModel | None = None) -> None:
        config.require_features()
        if config.backbone_config is None:
            raise ValueError(
                "config.json has no backbone_config: this is a feature model, load it with "
                "CRForFeatureClassification.from_pretrained"
            )
        super().__init__(config)
        self.backbone: Any = new_backbone(config.backbone_config, self.reads) if backbone is None else backbone
        self.main_input_name = self.backbone.main_input_name
        self._takes = frozenset(inspect.signature(self.backbone.forward).parameters)
        pooler = getattr(self.backbone, "pooler", None)
        if pooler is not None and next(pooler.parameters(), None) is not None:
            # It would never get a gradient: the features are pooled hidden states.
            self.backbone.pooler = nn.Identity()
        self.classifier = CRHead(config)
        self._freeze()
        self.post_init()

    def _freeze(self) -> None:
        super()._freeze()
        kind = self.config.backbone_config.model_type
        for name, parameter in self.backbone.named_parameters():
            if UNREAD.match(f"{kind} {name}"):
                parameter.requires_grad_(False)

    @classmethod
    def from_backbone(
        cls,
        backbone: str | Path | nn.Module,
        *,
        revision: str | None = None,
        trust_remote_code: bool = False,
        dtype: str | torch.dtype = torch.float32,
        attn_implementation: str | None = None,
        device_map: Any = None,
        quantization_config: Any = None,
        **config_kwargs: Any,
    ) -> Self:
        """A fresh CR head on a pretrained backbone.

        A sentence-transformers repository, folder or object also gives its pooling and its maximum length, unless they
        are given here; not its normalisation of embeddings.

        Args:
            backbone: a Hub id, a local folder, or "offline" (packaged), see `backbone_path`; or an object, which
                becomes part of the classifier as it is, whatever the next arguments say: see `given_backbone`.
            revision: Hub branch, tag or commit.
            trust_remote_code: allow a backbone whose code lives in its repository.
            dtype: of the backbone, float32 by default; the head is always float32.
            attn_implementation, device_map, quantization_config: of the backbone, as `AutoModel.from_pretrained` has
                them; `None` for transformers' own choice. A quantised backbone is frozen, and not saved with the head.
            **config_kwargs: fields of `CRConfig`: `num_labels`, `freeze_backbone`, `pooling`, `feature_layers`, ...

        Raises:
            ValueError: if a field is not allowed, the kind of backbone is not supported, or weights are missing.
            OSError: if the backbone cannot be found.
        """
        if "backbone_config" in config_kwargs:
            raise ValueError("backbone_config is not a field of CRConfig to give here: it comes with the backbone")
        own_pooling = config_kwargs.get("pooling") is not None
        if not isinstance(backbone, nn.Module):
            name = backbone_path(backbone)
            if revision is not None and Path(name).is_dir():
                raise ValueError(f"revision={revision!r} is of a Hub repository, and this is a folder: leave it out")
            found = sentence_transformers_settings(name, revision, own_pooling)
            loaded: Any = static_embeddings_of(name, revision)
        else:
            loaded, found = given_backbone(backbone, cls.reads, own_pooling)
        if loaded is not None:
            own = copy.deepcopy(loaded.config)  # ours says how to attend, and must not change that of the object
            config = CRConfig(backbone_config=own, **{**cls._fields_of(own), **found, **config_kwargs})
            return cls(config, backbone=loaded)._beside_backbone()
        hub_kwargs: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
        backbone_config = tower(AutoConfig.from_pretrained(name, **hub_kwargs), cls.reads)
        if backbone_config.model_type == CRConfig.model_type:
            raise ValueError("a CR checkpoint is no backbone: name the one that it was trained on")
        fields = {**cls._fields_of(backbone_config), **found, **config_kwargs}
        config = CRConfig(backbone_config=backbone_config, **fields)
        if not trust_remote_code and Path(name).is_dir():
            check_weight_files(Path(name), lambda: new_backbone(backbone_config, cls.reads))
        options: dict[str, Any] = {"dtype": dtype, "attn_implementation": attn_implementation, **hub_kwargs}
        options |= {"device_map": device_map, "quantization_config": quantization_config}
        loaded = load_backbone(name, backbone_config, cls.reads, **options)
        if config.freeze_backbone:
            config.backbone_source = backbone_source(name, revision)
        return cls(config, backbone=loaded)._beside_backbone()

    @classmethod
    def _fields_of(cls, backbone_config: PreTrainedConfig) -> dict[str, Any]:
        """Fields of `CRConfig` that a task and a backbone settle."""
        return cls.config_defaults

    def _beside_backbone(self) -> Self:
        """The model in evaluation mode, its head on the device of its backbone."""
        self.classifier.to(self.backbone.device)
        return self.eval()

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
        own = ("revision", "subfolder", "variant", "ignore_mismatched_sizes")
        hub = {name: kwargs[name] for name in (*HUB_OPTIONS, *own) if name in kwargs}
        options: Any = {"config": head_config, "output_loading_info": True, **hub}
        head, info = CRForFeatureClassification.from_pretrained(path, **options)
        model = cls(config, backbone=load_source(config, kwargs, cls.reads))
        model.classifier.load_state_dict(head.classifier.state_dict())
        model._beside_backbone()
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
            is_quantised = getattr(self.backbone, "hf_quantizer", None) is not None
            if is_quantised and not self.config.head_only:
                raise ValueError(
                    "a quantised backbone is not saved: freeze_backbone=True and head_only=True save the head, and "
                    "from_pretrained(..., quantization_config=...) quantises its backbone again"
                )
            if self.config.head_only and not is_quantised:
                refuse_changed(self.config, self.backbone, self.reads)
            self._leave_backbone_out(self.config.head_only)
            # Under the model's own names: those of earlier versions of a backbone (ViT's) cannot be resumed from.
            super().save_pretrained(save_directory, *args, **{"save_original_format": False, **kwargs})
        finally:
            self.config.head_only = before
            self._leave_backbone_out(before)

    def _leave_backbone_out(self, wanted: bool) -> None:
        names = {name for name in self.state_dict() if name.startswith("backbone.")}
        kept: Any = set(self._keys_to_ignore_on_save or ()) - names
        self._keys_to_ignore_on_save = kept | names if wanted else kept

    def train(self, mode: bool = True) -> Self:
        """Set training mode; a backbone without a trainable parameter stays in evaluation mode, its dropout off."""
        super().train(mode)
        if mode and not self._backbone_trains():
            self.backbone.eval()
        return self

    @torch.no_grad()
    def probe(self, shapes: dict[str, list[int]]) -> Tensor:
        """Logits of made-up inputs, to see that a saved model still answers as it did.

        Args:
            shapes: of each input by name; masks are all 1, token ids and numbers are drawn from seed 0.
        """
        drawn, inputs = torch.Generator().manual_seed(0), {}
        for name, shape in sorted(shapes.items()):
            if name == "input_ids":
                inputs[name] = torch.randint(int(self.config.vocab_size), shape, generator=drawn)
            elif name.endswith(("_ids", "_mask")):
                inputs[name] = torch.full(shape, int(name.endswith("_mask")))
            else:
                inputs[name] = torch.randn(shape, generator=drawn)
        found = self.evaluating()(**{name: value.to(self.device) for name, value in inputs.items()})
        return found.logits.float().cpu()

    def _encode(self, inputs: dict[str, Tensor | None], **outputs: bool) -> Encoded:
        """What the backbone makes of a batch; its hidden states and attentions where they are asked for."""
        raise NotImplementedError

    def _run(
        self,
        inputs: dict[str, Tensor | None],
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> Encoded:
        """`_encode`, without a gradient where nothing in the backbone trains."""
        config, embeds = self.config, inputs.get("inputs_embeds")
        outputs: dict[str, Any] = {
            "output_attentions": config.output_attentions if output_attentions is None else output_attentions,
            "output_hidden_states": (
                config.output_hidden_states if output_hidden_states is None else output_hidden_states
            ),
        }
        if outputs["output_attentions"] and not self._takes & {"output_attentions", "kwargs"}:
            raise ValueError(
                f"the backbone ({config.backbone_config.model_type}) has no attentions: do not ask for them"
            )
        trains = self._backbone_trains() or (embeds is not None and embeds.requires_grad)
        with contextlib.nullcontext() if trains else torch.no_grad():
            return self._encode(inputs, **outputs)

    def _call_backbone(self, passed: dict[str, Tensor], outputs: dict[str, bool]) -> Any:
        """Run a backbone of images or sound; `outputs` as `_encode` takes them."""
        options = {name: True for name, wanted in outputs.items() if wanted}
        if self.config.feature_layer_indices is not None:
            options["output_hidden_states"] = True
        return self.backbone(**passed, **options)

    def _chosen_states(self, output: Any) -> list[Tensor]:
        layers = self.config.feature_layer_indices
        return [output.last_hidden_state] if layers is None else [output.hidden_states[index] for index in layers]

    def _asked_for(self, output: Any, outputs: dict[str, bool]) -> tuple[Any, Any]:
        """Hidden states and attentions, each `None` where it is not asked for."""
        return tuple(output[name] if outputs[f"output_{name}"] else None for name in ("hidden_states", "attentions"))  # type: ignore[return-value]

    def _features(self, inputs: dict[str, Tensor | None], *outputs: bool | None) -> tuple[Tensor, Encoded]:
        """Pooled features, shape (batch, in_features), and what they were made of."""
        encoded = self._run(inputs, *outputs)
        with contextlib.nullcontext() if encoded.states[0].requires_grad else torch.no_grad():
            return torch.cat([pool(state, encoded.mask, self.config.pooling) for state in encoded.states], -1), encoded

    def _backbone_trains(self) -> bool:
        return any(parameter.requires_grad for parameter in self.backbone.parameters())


class CRModel(CRBackboneModel):
    """What `AutoModel` makes of a CR checkpoint: its backbone alone, of the class that transformers has for it."""

    auto_class = "AutoModel"
    reads = ("input_ids", "pixel_values", "input_values", "input_features")

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """The backbone of a saved classifier.

        Raises:
            OSError, ValueError: as for the classifier, and if it has no backbone.
        """
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        return (loaded[0].backbone, loaded[1]) if isinstance(loaded, tuple) else loaded.backbone

    @classmethod
    def _from_config(cls, config: CRConfig, **kwargs: Any) -> Any:
        return cls(config).backbone
