"""Static word embeddings as a transformers backbone: a table of vectors, looked up and averaged.

The vectors come from a GloVe or word2vec text file, or are learned from scratch with the head.
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers import PreTrainedTokenizerFast as FastTokenizer
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import can_return_tuple, logging

from .layers import pool

logger = logging.get_logger(__name__)

PADDING, UNKNOWN = "[PAD]", "[UNK]"


class StaticEmbeddingConfig(PreTrainedConfig):
    """Configuration of `StaticEmbeddingModel`.

    Args:
        vocab_size: words, padding and unknown among them; 2 by default.
        hidden_size: width of a vector, 300 by default.
        initializer_range: standard deviation of vectors that are learned from scratch, 0.1 by default.
        pad_token_id: of the padding, 0 by default.
    """

    model_type = "cr_static_embedding"

    def __init__(
        self,
        vocab_size: int = 2,
        hidden_size: int = 300,
        initializer_range: float = 0.1,
        pad_token_id: int = 0,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.initializer_range = initializer_range
        self.num_hidden_layers = 0
        self.pad_token_id = pad_token_id
        kwargs.pop("num_hidden_layers", None)
        super().__init__(**kwargs)


class StaticEmbeddingModel(PreTrainedModel):
    """A table of word vectors and their mean.

    Args:
        config: a `StaticEmbeddingConfig`.
    """

    config_class = StaticEmbeddingConfig
    base_model_prefix = "static"
    supports_gradient_checkpointing = True

    def __init__(self, config: StaticEmbeddingConfig) -> None:
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The table."""
        return self.embeddings

    def set_input_embeddings(self, value: Any) -> None:
        """Replace the table."""
        self.embeddings = value

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_hidden_states: bool | None = None,
    ) -> BaseModelOutputWithPooling:
        """Look words up.

        Args:
            input_ids: shape (batch, length).
            attention_mask: 1 on words, shape (batch, length); all of them by default.
            inputs_embeds: instead of input_ids, shape (batch, length, hidden_size).
            output_hidden_states: return the vectors as the only hidden state too.

        Returns:
            `last_hidden_state`, shape (batch, length, hidden_size), and their masked mean as `pooler_output`, shape
            (batch, hidden_size).
        """
        vectors = self.embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        mask = torch.ones(vectors.shape[:2], dtype=torch.long, device=vectors.device)
        return BaseModelOutputWithPooling(
            last_hidden_state=vectors,
            pooler_output=pool(vectors, mask if attention_mask is None else attention_mask, "mean"),
            hidden_states=(vectors,) if output_hidden_states else None,
        )


def register() -> None:
    """Teach `AutoConfig` and `AutoModel` this backbone. Called on import."""
    if StaticEmbeddingConfig.model_type not in CONFIG_MAPPING:
        AutoConfig.register(StaticEmbeddingConfig.model_type, StaticEmbeddingConfig)
        AutoModel.register(StaticEmbeddingConfig, StaticEmbeddingModel)


def build_tokenizer(
    texts: Iterable[str], vocabulary_size: int = 30_000, min_count: int = 2, max_length: int = 512
) -> FastTokenizer:
    """A fast tokenizer of lower-case words and punctuation marks.

    Args:
        texts: of the training set; read once.
        vocabulary_size: the most frequent words are kept, padding and unknown among them.
        min_count: words that are rarer are unknown.
        max_length: texts are cut to this many words.

    Raises:
        ValueError: if no word is frequent enough.
    """
    tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordLevelTrainer(
        vocab_size=vocabulary_size, min_frequency=min_count, special_tokens=[PADDING, UNKNOWN], show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() <= 2:
        raise ValueError(f"no word stands {min_count} times in the training texts: lower min_count or give more texts")
    return FastTokenizer(
        tokenizer_object=tokenizer,
        pad_token=PADDING,
        unk_token=UNKNOWN,
        model_max_length=max_length,
        model_input_names=["input_ids", "attention_mask"],
    )


def build_backbone(
    tokenizer: FastTokenizer, embedding_size: int = 300, vectors_file: str | Path | None = None
) -> StaticEmbeddingModel:
    """The backbone of a tokenizer: random vectors, or those of a file.

    Args:
        tokenizer: as `build_tokenizer` returns it.
        embedding_size: width of random vectors; a file has its own.
        vectors_file: GloVe or word2vec text, also .gz; `None` for random vectors. A word that it lacks gets a random
            vector of the same size.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it holds vectors of several widths, or none of the words.
    """
    words = tokenizer.get_vocab()
    if vectors_file is None:
        return StaticEmbeddingModel(StaticEmbeddingConfig(len(words), embedding_size))
    found = read_vectors(vectors_file, words)
    rows = torch.tensor([words[word] for word in found])
    vectors = torch.stack(list(found.values()))
    config = StaticEmbeddingConfig(len(words), vectors.shape[1], float(vectors.std()))
    model = StaticEmbeddingModel(config)
    with torch.no_grad():
        model.embeddings.weight[rows] = vectors
    logger.warning(f"{vectors_file}: vectors for {len(found)} of {len(words) - 2} words, the others are random")
    return model


def read_vectors(path: str | Path, wanted: Iterable[str]) -> dict[str, Tensor]:
    """Vectors of some words of a GloVe or word2vec text file; memory is needed for these alone.

    Args:
        path: one word and its vector a line, with or without word2vec's first line of two numbers; also .gz.
        wanted: the words to keep. Case matters; the first line of a word counts.

    Returns:
        Vectors of shape (width,) by word. Lines whose numbers cannot be read are counted and left out.

    Raises:
        OSError: if the file cannot be read.
        ValueError: at the first line of another width, if the file is not UTF-8, or if it holds none of the words.
    """
    path, wanted = Path(path), frozenset(wanted)
    found: dict[str, Tensor] = {}
    bad: list[int] = []
    width = 0
    for number, line in enumerate(_lines(path), start=1):
        fields = line.split(" ")
        if number == 1 and len(fields) == 2 and all(field.isdigit() for field in fields):
            width = int(fields[1])
            continue
        width = width or len(fields) - 1
        # A word may hold spaces; a second field that is a number, in a line too long, is a longer vector instead.
        if len(fields) - 1 < width or (len(fields) - 1 > width and _is_number(fields[1])):
            raise ValueError(
                f"{path}, line {number}: {len(fields) - 1} numbers instead of {width}: all vectors of a file must "
                "have one width"
            )
        word = " ".join(fields[:-width])
        if word not in wanted or word in found:
            continue
        numbers = [float(field) if _is_number(field) else math.nan for field in fields[-width:]]
        if not all(map(math.isfinite, numbers)):
            bad.append(number)
            continue
        found[word] = torch.tensor(numbers)
    if bad:
        logger.warning(f"{path}: {len(bad)} lines hold something else than numbers and are left out, first {bad[0]}")
    if not found:
        raise ValueError(f"{path} holds a vector for none of the {len(wanted)} words of the training texts")
    return found


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _lines(path: Path) -> Iterator[str]:
    """Lines that are not blank, without their ends."""
    with path.open("rb") as raw:
        is_gzip = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        binary: IO[bytes] | gzip.GzipFile = gzip.GzipFile(fileobj=raw) if is_gzip else raw
        for number, line in enumerate(binary, start=1):
            try:
                text = line.decode("utf-8").rstrip(" \r\n")
            except UnicodeDecodeError as error:
                raise ValueError(f"{path}, line {number}: not UTF-8 text: is it a binary file of vectors?") from error
            if text:
                yield text


register()
