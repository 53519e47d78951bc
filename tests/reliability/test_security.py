"""No connection is opened by importing anything of the package, nor by any constructor."""

import subprocess
import sys
from pathlib import Path

import pytest

import cr_hf

BLOCKED = """
import os, socket, sys

def refuse(*arguments, **named):
    os.write(2, f"a connection was opened: {arguments}".encode())
    os._exit(3)  # whatever would catch an exception

for name in [name for name in os.environ if name.startswith("HF_")]:
    del os.environ[name]
os.environ["HF_HOME"] = sys.argv[1]
class Refused(socket.socket):  # one may be made, to see what the system can do, but neither reached nor named
    connect = connect_ex = sendto = refuse

socket.socket = Refused
socket.create_connection = socket.getaddrinfo = socket.gethostbyname = refuse
"""
IMPORT = """
import importlib, pkgutil, cr_hf
modules = [module.name for module in pkgutil.walk_packages(cr_hf.__path__, "cr_hf.")]
for name in modules:
    importlib.import_module(name)
for name in cr_hf.__all__:
    getattr(cr_hf, name)
print(len(modules))
"""
CONSTRUCT = """
from transformers import AutoModel, AutoModelForSequenceClassification, BertConfig
from cr_hf import (
    CRConfig, CRForFeatureClassification, CRForSequenceClassification, CRTrainer, CRTrainingArguments,
    StaticEmbeddingConfig, StaticEmbeddingModel,
)
from cr_hf.data import DataConfig, load_rows
from cr_hf.runs.recipe import load_recipe

small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 9}
static = StaticEmbeddingConfig(vocab_size=9, hidden_size=4)
StaticEmbeddingModel(static)
features = CRForFeatureClassification(CRConfig(in_features=4, num_labels=3))
for backbone in (BertConfig(**small), static):
    config = CRConfig(backbone_config=backbone, num_labels=3)
    CRForSequenceClassification(config)
    AutoModelForSequenceClassification.from_config(config)
arguments = CRTrainingArguments(output_dir=sys.argv[1] + "/run", use_cpu=True, push_to_hub=True, hub_model_id="me/x")
CRTrainer(model=features, args=arguments)
load_recipe("recipes/demo.yaml")
load_rows(DataConfig(name="embedded"))
print("made")
"""


def run_without_sockets(script: str, folder: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED + script, str(folder)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.split()


@pytest.mark.slow
def test_no_network_in_importing_and_constructing(tmp_path: Path) -> None:
    files = Path(cr_hf.__file__).parent.rglob("*.py")
    modules = len([file for file in files if file.parent.name != "space"]) - 1  # a script that is copied to a Space
    assert run_without_sockets(IMPORT + CONSTRUCT, tmp_path) == [str(modules), "made"]


def test_the_block_works(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="a connection was opened"):
        run_without_sockets("import urllib.request; urllib.request.urlopen('http://127.0.0.1:9')", tmp_path)
