"""Shared fixtures: everything is built here with random weights, nothing comes from the network."""

import os
import tempfile

os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    # One for a process: pytest and the tests import this file under two names, and new processes use the same cache.
    HF_HOME=os.path.join(tempfile.gettempdir(), f"cr_hf_tests_{os.getpid()}"),
    TOKENIZERS_PARALLELISM="false",
    OMP_NUM_THREADS="1",  # of torch, of NumPy's products and of all children: a worker has one core
)

import atexit
import gc
import shutil
import string
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoModel,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    LlamaConfig,
    ModernBertConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    T5Config,
)
from transformers.utils import logging

atexit.register(shutil.rmtree, os.environ["HF_HOME"], ignore_errors=True)

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
CHARACTERS = [*string.ascii_lowercase, *string.digits, *string.punctuation]
WORDS = """the an and or but not very is was it this that film movie plot acting food service good bad great awful dull
gorgeous witty boring superb terrible decent fine poor best worst love loved hate hated really quite so too"""
VOCABULARY = [*SPECIAL_TOKENS, *CHARACTERS, *(f"##{character}" for character in CHARACTERS), *WORDS.split()]

WIDTH = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
TOKENS = {"vocab_size": len(VOCABULARY), "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
BACKBONES: dict[str, Callable[[], PreTrainedConfig]] = {
    "bert": lambda: BertConfig(**WIDTH, **TOKENS, max_position_embeddings=64),
    "roberta": lambda: RobertaConfig(**WIDTH, **TOKENS, max_position_embeddings=65, type_vocab_size=1),
    "distilbert": lambda: DistilBertConfig(
        dim=32, n_layers=2, n_heads=2, hidden_dim=48, **TOKENS, max_position_embeddings=64
    ),
    "deberta-v2": lambda: DebertaV2Config(
        **WIDTH,
        **TOKENS,
        max_position_embeddings=64,
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        position_buckets=8,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        type_vocab_size=0,
    ),
    "modernbert": lambda: ModernBertConfig(
        **WIDTH,
        **TOKENS,
        cls_token_id=2,
        sep_token_id=3,
        max_position_embeddings=64,
        local_attention=8,
        global_attn_every_n_layers=2,
    ),
    # One decoder layer only: a feature_layers="all" that counted the decoder's would be noticed.
    "t5": lambda: T5Config(
        d_model=32,
        d_kv=16,
        d_ff=48,
        num_layers=2,
        num_decoder_layers=1,
        num_heads=2,
        **TOKENS,
        decoder_start_token_id=0,
    ),
    "llama": lambda: LlamaConfig(**WIDTH, **TOKENS, num_key_value_heads=1, max_position_embeddings=64),
}
TEMPLATES = {"t5": "$A [SEP]", "llama": "[CLS] $A"}

TinyBackbone = Callable[..., Path]


def build_tokenizer(family: str, padding_side: str = "right") -> PreTrainedTokenizerFast:
    """A lower-casing WordPiece tokenizer that spells what it does not know, so that no two texts look alike."""
    pieces = {token: index for index, token in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.WordPiece(pieces, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=TEMPLATES.get(family, "[CLS] $A [SEP]"), special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        bos_token="[CLS]",
        eos_token="[SEP]",
        padding_side=padding_side,
        model_max_length=64,
    )


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory: pytest.TempPathFactory) -> TinyBackbone:
    """A function from a family's name to the folder of its tiny pretrained backbone and tokenizer."""
    root = tmp_path_factory.mktemp("backbones")

    def folder_of(family: str, padding_side: str = "right") -> Path:
        folder = root / f"{family}-{padding_side}"
        if not folder.exists():
            with torch.random.fork_rng():
                torch.manual_seed(sorted(BACKBONES).index(family))
                AutoModel.from_config(BACKBONES[family]()).save_pretrained(folder)
            build_tokenizer(family, padding_side).save_pretrained(folder)
        return folder

    return folder_of


@pytest.fixture(params=sorted(BACKBONES))
def family(request: pytest.FixtureRequest) -> str:
    """Each backbone family in turn."""
    return request.param


@pytest.fixture(autouse=True, scope="module")
def frozen_objects() -> None:
    """Spare the collector all that is imported by now: Trainer collects garbage before each run."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Every test starts from the same random state and leaves the libraries' defaults as they were."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # whatever a trainer before has set: children inherit it, and sums come out alike
    said = logging.get_verbosity()
    yield
    logging.set_verbosity(said)
    torch.set_default_dtype(torch.float32)
