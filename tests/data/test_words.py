"""The words of a static backbone and their vectors."""

import gzip
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from cr_hf.data.words import build_static_backbone, build_word_tokenizer, read_vectors

TEXTS = ["A good film, a GOOD plot.", "A bad film: a bad plot!", "Good food ."]


def test_the_tokenizer_knows_the_frequent_words_of_the_training_texts(tmp_path: Path) -> None:
    tokenizer = build_word_tokenizer(TEXTS, min_count=2)
    tokenizer.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert set(tokenizer.get_vocab()) == {"[PAD]", "[UNK]", "a", "good", "bad", "film", "plot", "."}
    assert tokenizer.tokenize("Good, food.") == ["good", "[UNK]", "[UNK]", "."]
    assert tokenizer(["good film", "good"], padding=True)["input_ids"][1][1] == tokenizer.pad_token_id == 0
    assert len(build_word_tokenizer(TEXTS, vocabulary_size=4, min_count=1)) == 4


def test_the_vocabulary_is_the_same_every_time() -> None:
    """Every process of a run, and a resumed one, builds its own."""
    texts = [f"word{row % 97} word{row % 89}" for row in range(300)]
    found = [build_word_tokenizer(texts, vocabulary_size=120, min_count=1).get_vocab() for _ in range(3)]
    assert found[0] == found[1] == found[2]


def test_no_frequent_word_is_an_error() -> None:
    with pytest.raises(ValueError, match="no word stands 9 times"):
        build_word_tokenizer(TEXTS, min_count=9)


GLOVE = "good 1 2 3\nfilm 0.5 -1e-1 0\n. . . 7 7 7\nunwanted 4 5 6\ngood 9 9 9\nbad x 1 2\nplot nan 1 2\nfood 3 2 1\n"


@pytest.mark.parametrize("form", ["glove", "word2vec", "gzip", "windows"])
def test_vectors_of_a_file(form: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = "8 3\n" + GLOVE if form == "word2vec" else GLOVE.replace("\n", "\r\n") if form == "windows" else GLOVE
    path = tmp_path / "vectors.txt"
    path.write_bytes(gzip.compress(text.encode()) if form == "gzip" else text.encode())
    found = read_vectors(path, ["good", "film", "bad", "plot", "food", ". . .", "absent"])
    assert {word: vector.tolist() for word, vector in found.items()} == {
        "good": [1, 2, 3],
        "film": pytest.approx([0.5, -0.1, 0]),
        ". . .": [7, 7, 7],
        "food": [3, 2, 1],
    }


def test_words_without_a_vector_get_random_ones_of_the_same_size(tmp_path: Path) -> None:
    tokenizer = build_word_tokenizer(TEXTS, min_count=1)
    path = tmp_path / "vectors.txt"
    path.write_text(GLOVE, encoding="utf-8")
    backbone = build_static_backbone(tokenizer, 300, path)
    table, vocabulary = backbone.embeddings.weight, tokenizer.get_vocab()
    assert table.shape == (len(vocabulary), 3)
    assert table[vocabulary["good"]].tolist() == [1, 2, 3]
    assert 0 < table[vocabulary["plot"]].abs().max() < 20


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"good 1 2 3\nfilm 1 2\n", "vectors.txt, line 2: 2 numbers instead of 3"),
        (b"good 1 2 3\nunwanted 1 2 3 4\n", "vectors.txt, line 2: 4 numbers instead of 3"),
        (b"4 3\ngood 1 2\n", "vectors.txt, line 2: 2 numbers instead of 3"),
        (b"unwanted 1 2 3\n", "none of the 1 words"),
        (b"", "none of the 1 words"),
        (b"good \xff\xfe 2 3\n", "vectors.txt, line 1: not UTF-8"),
    ],
)
def test_bad_files_are_one_line(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "vectors.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_vectors(path, ["good"])
    assert "\n" not in str(caught.value)
