"""ChainzRule (CR) networks for Hugging Face Transformers.

Importing the package registers the `cr` model type, so that `AutoConfig`, `AutoModelForSequenceClassification` and
`pipeline` load CR checkpoints. The classes below are imported when they are first used.
"""

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_EXPORTS = {
    "CRConfig": "configuration_cr",
    "CRLayer": "layers",
    "CRHead": "modeling_cr",
    "CRClassifierOutput": "modeling_cr",
    "CRForFeatureClassification": "modeling_cr",
    "CRForSequenceClassification": "modeling_cr",
    "add_lora": "lora",
    "lora_config": "lora",
    "merge_lora": "lora",
    "StaticEmbeddingConfig": "static_embeddings",
    "StaticEmbeddingModel": "static_embeddings",
    "CRTrainer": "trainer",
    "CRTrainingArguments": "training_args",
}
__all__ = ["__version__", "register_auto_classes", *_EXPORTS]

if TYPE_CHECKING:
    from .configuration_cr import CRConfig as CRConfig
    from .layers import CRLayer as CRLayer
    from .lora import add_lora as add_lora
    from .lora import lora_config as lora_config
    from .lora import merge_lora as merge_lora
    from .modeling_cr import CRClassifierOutput as CRClassifierOutput
    from .modeling_cr import CRForFeatureClassification as CRForFeatureClassification
    from .modeling_cr import CRForSequenceClassification as CRForSequenceClassification
    from .modeling_cr import CRHead as CRHead
    from .static_embeddings import StaticEmbeddingConfig as StaticEmbeddingConfig
    from .static_embeddings import StaticEmbeddingModel as StaticEmbeddingModel
    from .trainer import CRTrainer as CRTrainer
    from .training_args import CRTrainingArguments as CRTrainingArguments


def register_auto_classes() -> None:
    """Teach `AutoConfig` and `AutoModelForSequenceClassification` the `cr` model type. Called on import."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    from .configuration_cr import CRConfig
    from .modeling_cr import CRForSequenceClassification

    AutoConfig.register(CRConfig.model_type, CRConfig, exist_ok=True)
    AutoModelForSequenceClassification.register(CRConfig, CRForSequenceClassification, exist_ok=True)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_EXPORTS[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)


# The command line registers when a command needs it: importing transformers' Auto classes takes seconds, and
# `cr-hf --help` must not wait for them.
if Path(sys.argv[0] if sys.argv else "").stem != "cr-hf":
    register_auto_classes()
