"""From texts to batches of token ids, and from these to hidden states, by any backbone.

The tokenizer is a copy: what a user hands over is never changed. Texts are cut by characters first, so that a very
long one costs no more than what the model reads of it, and are tokenized in chunks of bounded size. A backbone sees
the attended tokens first and the padding after them, whatever the padding side.
"""

from __future__ import annotations

import copy
import os
import re
import threading
from collections.abc import Container, Iterator, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import BatchEncoding
from transformers.utils import logging

logger = logging.get_logger(__name__)

CHUNK_CHARACTERS = 1 << 20
CHARACTERS_PER_TOKEN = 32  # a first guess: where a text has fewer tokens, more of it is read
LONG_RUN = 500  # more blanks, or characters of a word, are cut to so many, if the tokenizer makes nothing of the rest

SECONDS, DEFAULT_SECONDS = "CR_HF_TOKENIZER_SECONDS", 120
"""Name in the environment of how long a call may take, of about `CHUNK_CHARACTERS`."""

_prepared: WeakKeyDictionary[Any, tuple[Any, Any]] = WeakKeyDictionary()


class TokenizerError(ValueError):
    """A tokenizer that fails on a text, or does not come to an end; `first` is the number of the first such text."""

    def __init__(self, message: str, first: int) -> None:
        super().__init__(message)
        self.first = first


def prepare_tokenizer(tokenizer: Any, max_length: int) -> Any:
    """A copy that pads on the right, has a padding token and cuts at `max_length`; saved, it carries all three.

    Args:
        tokenizer: of the backbone; left as it is. The copy is kept until its tokens, sides or length change.
        max_length: tokens of a text, special ones included.

    Raises:
        ValueError: if it has neither a padding nor an end-of-text token.
    """
    tokens = len(tokenizer), str(tokenizer.added_tokens_decoder), str(tokenizer.special_tokens_map)
    state = (max_length, tokenizer.truncation_side, *tokens)
    known = _prepared.get(tokenizer)
    if known is not None and known[0] == state:
        return known[1]
    own = copy.deepcopy(tokenizer)
    own.padding_side, own.model_max_length = "right", max_length
    if own.pad_token is None:
        if own.eos_token is None:
            raise ValueError("the tokenizer has neither a padding nor an end-of-text token: set tokenizer.pad_token")
        own.pad_token = own.eos_token
        logger.warning(f"the tokenizer has no padding token: {own.eos_token!r}, its end of text, pads")
    own("", truncation=True, max_length=max_length)  # the last call that changes it: threads may share it now
    _prepared[tokenizer] = state, own
    return own


def tokenize(tokenizer: Any, texts: Sequence[str], pairs: Sequence[str] | None = None) -> dict[str, list[list[int]]]:
    """What the tokenizer makes of each text, cut to its length: a list a text by name (`input_ids` and so on).

    Args:
        tokenizer: from `prepare_tokenizer`.
        texts: any number.
        pairs: second texts, one for each; `None` for single texts.

    Raises:
        ValueError: naming a text that is no text.
        TokenizerError: naming texts that the tokenizer fails on, or that take it too long.
    """
    columns = [texts] if pairs is None else [texts, pairs]
    encoded: dict[str, list[list[int]]] = {"input_ids": []}
    rows: list[tuple[str, ...]] = []
    size = 0
    for number, row in enumerate(zip(*columns, strict=True)):
        try:
            for text in row:
                text.encode()
        except (AttributeError, UnicodeEncodeError) as error:
            raise ValueError(f"text {number} is no text ({error}): mend it or leave it out") from error
        rows.append(tuple(_cut(tokenizer, text, number) for text in row))
        size += sum(map(len, rows[-1]))
        if size >= CHUNK_CHARACTERS or number + 1 == len(texts):
            for name, values in _call(tokenizer, rows, number, truncation=True).items():
                encoded.setdefault(name, []).extend(values)
            rows, size = [], 0
    return encoded


def _call(tokenizer: Any, rows: list[tuple[str, ...]], last: int, **options: Any) -> Any:
    """One call, in a thread of its own: there is no other way to leave Rust code that does not end."""
    columns = list(map(list, zip(*rows, strict=True)))
    found: list[Any] = []
    failed: list[BaseException] = []

    def call() -> None:
        try:
            found.append(tokenizer(*columns, max_length=tokenizer.model_max_length, **options))
        except BaseException as error:
            failed.append(error)

    asked = os.environ.get(SECONDS, str(DEFAULT_SECONDS))
    if not re.fullmatch(r"\d{1,8}(\.\d+)?", asked):
        raise TokenizerError(f"the environment has {SECONDS}={asked!r}: give a number of seconds", 0)
    limit = float(asked)
    worker = threading.Thread(target=call, daemon=True)
    worker.start()
    worker.join(limit)
    if found:
        return found[0]
    first = last + 1 - len(rows)
    # A pattern without end, say: the Rust library panics, which Python takes for no ordinary error.
    if failed and type(failed[0]).__name__ != "PanicException":
        raise failed[0]
    cause = f"fails on texts {first} to {last}: {failed[0]}" if failed else f"still works on texts {first} to {last}"
    mend = "use another, or leave the text out"
    mend += "" if failed else f", or allow more than {limit:g} seconds in the environment as {SECONDS}"
    raise TokenizerError(f"the tokenizer {tokenizer.name_or_path!r} {cause}: {mend}", first) from next(
        iter(failed), None
    )


def _cut(tokenizer: Any, text: str, number: int) -> str:
    """The part of a long text that holds the tokens which are kept, and as much again to be sure of the last one."""
    reach = CHARACTERS_PER_TOKEN * tokenizer.model_max_length
    from_end = tokenizer.truncation_side == "left"

    def shorter(run: re.Match[str]) -> str:
        kept, rest = run.group()[:LONG_RUN], "".join(sorted(set(run.group())))
        rows: list[tuple[str, ...]] = [(kept,), (kept + rest,)]
        short, longer = _call(tokenizer, rows, number, add_special_tokens=False, verbose=False)["input_ids"]
        return kept if short == longer else run.group()

    if len(text) > 2 * reach:
        text = re.sub(rf"(?<!\s)\s{{{LONG_RUN},}}|(?<!\S)\S{{{LONG_RUN},}}", shorter, text)
    while len(text) > 2 * reach:
        part = text[-reach:] if from_end else text[:reach]
        (ids,) = _call(tokenizer, [(part,)], number, truncation=True, add_special_tokens=False)["input_ids"]
        if len(ids) == tokenizer.model_max_length:
            return text[-2 * reach :] if from_end else text[: 2 * reach]
        reach *= 4
    return text


def token_batches(lengths: Sequence[int], token_budget: int) -> Iterator[list[int]]:
    """Row numbers in batches of similar length, longest first; a row above the budget is a batch of its own."""
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    start = 0
    while start < len(order):
        rows = max(1, token_budget // max(1, lengths[order[start]]))
        yield order[start : start + rows]
        start += rows


def padded_batches(
    tokenizer: Any, encoded: dict[str, list[list[int]]], token_budget: int
) -> Iterator[tuple[list[int], BatchEncoding]]:
    """`token_batches` of what `tokenize` returns, each with its tensors."""
    for rows in token_batches([len(ids) for ids in encoded["input_ids"]], token_budget):
        chosen = {name: [values[row] for row in rows] for name, values in encoded.items()}
        yield rows, tokenizer.pad(chosen, return_tensors="pt")


class Encoded(NamedTuple):
    """What a backbone makes of a batch.

    Args:
        states: those that become features, shape (batch, positions, width), the padding on the right.
        mask: 1 on the positions that count, shape (batch, positions).
        order: where each position stood in what was given, shape (batch, positions); `None` where nothing was moved.
        hidden_states, attentions: of all layers, in the order that was given, if they were asked for.
    """

    states: list[Tensor]
    mask: Tensor
    order: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None

    def as_given(self, values: Tensor, dims: tuple[int, ...] = (1,)) -> Tensor:
        """Values of all positions, put back to where these stood."""
        for dim in () if self.order is None else dims:
            back = self.order.argsort(1)  # type: ignore[union-attr]
            shape = [values.shape[0], *(values.shape[dim] if at == dim else 1 for at in range(1, values.ndim))]
            values = values.gather(dim, back.view(shape).expand_as(values))
        return values


def _tokens_first(passed: dict[str, Tensor], given: Tensor) -> tuple[dict[str, Tensor], Tensor | None]:
    """Inputs with a mask and the padding on the right, and the order in which positions were taken for it."""
    if "attention_mask" not in passed:
        return {**passed, "attention_mask": torch.ones(given.shape[:2], dtype=torch.long, device=given.device)}, None
    # (batch, length), attended tokens first. Written so that it can be exported: ONNX has no stable sort, so that no
    # two keys of a text are equal; and `len` would fix the size of a batch.
    length, device = given.shape[1], given.device
    keys = torch.arange(length, device=device), torch.arange(-length, 0, device=device)
    order = torch.where(passed["attention_mask"].eq(0), *keys).argsort(dim=1)
    moved = {}
    for name, value in passed.items():
        every = value.expand(order.shape[0], *value.shape[1:])  # position_ids may have one row for all
        moved[name] = every.gather(1, order if value.ndim == 2 else order.unsqueeze(-1).expand_as(every))
    return moved, order


def hidden_states(
    backbone: Any,
    takes: Container[str],
    inputs: dict[str, Tensor | None],
    layers: list[int] | None,
    max_positions: int,
    output_attentions: bool = False,
    output_hidden_states: bool = False,
) -> Encoded:
    """What a backbone makes of a batch of texts.

    Args:
        backbone: to run.
        takes: names of the arguments of its forward pass; `token_type_ids` are left out if it does not take them.
        inputs: `input_ids` or `inputs_embeds`, shape (batch, length, ...), perhaps `attention_mask`,
            `token_type_ids` and `position_ids`.
        layers: indices of the hidden states, `None` for the last one alone.
        max_positions: for the message.
        output_attentions, output_hidden_states: return them too.

    Raises:
        ValueError: if a text is longer than the backbone can read, or has a token that it does not know.
    """
    passed: dict[str, Any] = dict(inputs) if "token_type_ids" in takes else {**inputs, "token_type_ids": None}
    passed = {name: value for name, value in passed.items() if value is not None}
    if "position_ids" in passed and "position_ids" not in takes:
        raise ValueError(f"the backbone ({backbone.config.model_type}) takes no position_ids: leave them out")
    given = passed["input_ids"] if "input_ids" in passed else passed["inputs_embeds"]
    passed, order = _tokens_first(passed, given)
    options: dict[str, Any] = {"use_cache": False} if "use_cache" in takes else {}
    if output_attentions:
        options["output_attentions"] = True
    try:
        output = backbone(**passed, **options, output_hidden_states=layers is not None or output_hidden_states)
    except (IndexError, RuntimeError) as error:
        size, highest = backbone.get_input_embeddings().weight.shape[0], int(passed.get("input_ids", given).max())
        if highest >= size:
            raise ValueError(
                f"the tokenizer gives token {highest}, the backbone has {size} embeddings: they do not belong together"
            ) from error
        if given.shape[1] > max_positions:
            raise ValueError(
                f"a text has {given.shape[1]} tokens, the backbone reads {max_positions}: truncation=True cuts it"
            ) from error
        raise
    states = [output.last_hidden_state] if layers is None else [output.hidden_states[index] for index in layers]
    # Backbones that attend in blocks give the end of the last block too.
    encoded = Encoded([state[:, : given.shape[1]] for state in states], passed["attention_mask"], order)
    if not (output_attentions or output_hidden_states):
        return encoded
    layers_of = output.hidden_states if output_hidden_states else None
    weights_of = output.attentions if output_attentions else None
    return encoded._replace(
        hidden_states=layers_of and tuple(encoded.as_given(state[:, : given.shape[1]]) for state in layers_of),
        attentions=weights_of and tuple(encoded.as_given(weights, (2, 3)) for weights in weights_of),
    )
