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


@pytest.mark.parametrize(
    "first",
    [
        f"import cr_hf; {AUTO}",
        f"{AUTO}; import cr_hf",
        f"from cr_hf import CRConfig; {AUTO}",
        f"import cr_hf.modeling.layers; {AUTO}",
        # Modules that import the Auto classes on their own way: at that moment they are half imported themselves.
        f"import cr_hf; from transformers import PreTrainedModel; {AUTO}",
        f"import cr_hf; import transformers.quantizers; {AUTO}",
    ],
)
def test_the_model_type_is_registered_whatever_is_imported_first(first: str) -> None:
    script = f"{first}\nconfig = AutoConfig.for_model('cr', in_features=3, num_labels=2)\n"
    script += "print(config.degree, AutoModelForSequenceClassification._model_mapping[type(config)].__name__)"
    assert run(script) == "3 CRForSequenceClassification"
