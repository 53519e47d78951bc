"""Word vectors of a static backbone: a tokenizer of the training words, and vectors of a file or random ones."""

from __future__ import annotations

import gzip
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast as FastTokenizer
from transformers.utils import logging

from ..modeling import StaticEmbeddingConfig, StaticEmbeddingModel
from .config import as_number

logger = logging.get_logger(__name__)

PADDING, UNKNOWN = "[PAD]", "[UNK]"


def build_word_tokenizer(
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


def build_static_backbone(
    tokenizer: FastTokenizer, embedding_size: int = 300, vectors_file: str | Path | None = None
) -> StaticEmbeddingModel:
    """The backbone of a tokenizer: random vectors, or those of a file.

    Args:
        tokenizer: from `build_word_tokenizer`.
        embedding_size: width of random vectors; a file has its own.
        vectors_file: GloVe or word2vec text, also .gz; `None` for random vectors. A word that it lacks gets a random
            vector of the same size.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it holds vectors of several widths, or none of the words.
    """
    words = tokenizer.get_vocab()
    if vectors_file is None:
        return StaticEmbeddingModel(StaticEmbeddingConfig(vocab_size=len(words), hidden_size=embedding_size))
    found = read_vectors(vectors_file, words)
    rows = torch.tensor([words[word] for word in found])
    vectors = torch.stack(list(found.values()))
    config = StaticEmbeddingConfig(
        vocab_size=len(words), hidden_size=vectors.shape[1], initializer_range=float(vectors.std())
    )
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
        if len(fields) - 1 < width or (len(fields) - 1 > width and not math.isnan(as_number(fields[1]))):
            raise ValueError(
                f"{path}, line {number}: {len(fields) - 1} numbers instead of {width}: all vectors of a file must "
                "have one width"
            )
        word = " ".join(fields[:-width])
        if word not in wanted or word in found:
            continue
        numbers = [as_number(field) for field in fields[-width:]]
        if not all(map(math.isfinite, numbers)):
            bad.append(number)
            continue
        found[word] = torch.tensor(numbers)
    if bad:
        logger.warning(f"{path}: {len(bad)} lines hold something else than numbers and are left out, first {bad[0]}")
    if not found:
        raise ValueError(f"{path} holds a vector for none of the {len(wanted)} words of the training texts")
    return found


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
