"""The names that a user may import, and what an import costs."""

import subprocess
import sys

import pytest

import cr_hf

# Every name that version 0.1.0 offered.
NAMES = """CRClassifierOutput CRConfig CRForFeatureClassification CRForSequenceClassification CRHead CRLayer CRTrainer
CRTrainingArguments StaticEmbeddingConfig StaticEmbeddingModel __version__ add_lora lora_config merge_lora
register_auto_classes"""


@pytest.mark.parametrize("name", NAMES.split())
def test_no_public_name_is_lost(name: str) -> None:
    assert getattr(cr_hf, name)
    assert name in cr_hf.__all__
    assert name in dir(cr_hf)


def run(script: str) -> str:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()


def test_importing_the_package_and_the_command_line_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'transformers', 'datasets', 'numpy'} & set(sys.modules)"
    assert run(f"import sys, cr_hf, cr_hf.cli; print(sorted({heavy}))") == "[]"


AUTO = "from transformers import AutoConfig, AutoModelForSequenceClassification"


ORDERS = [
    f"import cr_hf; {AUTO}",
    f"{AUTO}; import cr_hf",
    f"from cr_hf import CRConfig; {AUTO}",
    f"import cr_hf.modeling.layers; {AUTO}",
    # Modules that import the Auto classes on their own way: at that moment they are half imported themselves.
    f"import cr_hf; from transformers import PreTrainedModel; {AUTO}",
    f"import cr_hf; import transformers.quantizers; {AUTO}",
]


SHARED = "huggingface_hub, scipy.optimize, tokenizers, torch._dynamo, torch.distributed.tensor, torch.export"


@pytest.fixture(scope="module")
def registered() -> list[str]:
    """What every order gives, each in a fork of one process that has imported what takes seconds."""
    look = "\nconfig = AutoConfig.for_model('cr', in_features=3, num_labels=2)\n"
    look += (
        "print(config.degree, AutoModelForSequenceClassification._model_mapping[type(config)].__name__, flush=True)"
    )
    script = f"import os, {SHARED}\nfor first in {ORDERS}:\n    if not os.fork():\n        exec(first + {look!r})\n"
    return run(f"{script}        os._exit(0)\n    assert not os.wait()[1], first").splitlines()


@pytest.mark.parametrize("order", range(len(ORDERS)), ids=ORDERS)
def test_the_model_type_is_registered_whatever_is_imported_first(order: int, registered: list[str]) -> None:
    assert registered[order] == "3 CRForSequenceClassification"
