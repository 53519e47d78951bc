"""Images and sounds encoded once: equal to the model itself, kept by content, bad ones named by their row."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from modalities import model_on
from PIL import Image
from transformers import ViTImageProcessorPil, Wav2Vec2FeatureExtractor

from cr_hf.errors import DataError
from cr_hf.features import encode_media

PROCESSORS: dict[str, Any] = {
    "vit": ViTImageProcessorPil(size={"height": 16, "width": 16}),
    "wav2vec2": Wav2Vec2FeatureExtractor(),
}


def items_of(kind: str) -> list[Any]:
    drawn = np.random.default_rng(0)
    if kind == "wav2vec2":
        sounds = [drawn.normal(size=size).astype(np.float32) for size in (300, 80, 200)]
        return [*sounds, {"array": sounds[0], "sampling_rate": 16_000}, np.zeros(90, np.float32)]
    picture = drawn.integers(0, 255, (20, 30, 3), dtype=np.uint8)
    return [picture, Image.fromarray(picture), Image.new("L", (5, 5), 9), Image.new("CMYK", (9, 9))]


@pytest.mark.parametrize("kind", PROCESSORS)
def test_it_equals_the_model_and_is_kept(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, items = model_on(kind, tmp_path / "backbone", freeze_backbone=True), items_of(kind)
    kept = encode_media(model, PROCESSORS[kind], items, cache_dir=tmp_path / "cache")
    assert np.array_equal(kept, encode_media(model, PROCESSORS[kind], items, cache_dir=False))
    assert np.isfinite(kept).all()
    twin = {"vit": 1, "wav2vec2": 3}[kind]
    assert np.allclose(kept[0], kept[twin], atol=1e-6)
    first = items[0] if kind == "wav2vec2" else items[1]
    options = {"sampling_rate": 16_000} if kind == "wav2vec2" else {}
    with torch.no_grad():
        alone = model.get_features(**PROCESSORS[kind]([first], return_tensors="pt", **options))
    torch.testing.assert_close(torch.tensor(kept[0]), alone[0])
    monkeypatch.setattr(type(model), "get_features", lambda *_, **__: pytest.fail("encoded again"))
    again = encode_media(model, PROCESSORS[kind], items, cache_dir=tmp_path / "cache")
    assert np.array_equal(kept, again)


@pytest.mark.parametrize(
    ("kind", "bad", "message"),
    [
        ("vit", "no.png", r"row 1 of the images cannot be read .*no\.png.*mend it or leave it out"),
        ("vit", "there is none.png", r"row 1 of the images cannot be read .*No such file"),
        ("vit", np.zeros((2, 2, 7)), r"row 1 of the images cannot be read"),
        ("wav2vec2", np.zeros(0), r"row 1 of the sounds cannot be read \(its samples have shape \(0,\)"),
        ("wav2vec2", np.zeros((2, 9)), r"row 1 of the sounds .*shape \(2, 9\)"),
        ("wav2vec2", np.array([0.0, np.nan]), r"row 1 of the sounds .*not finite"),
        ("wav2vec2", np.zeros(3), r"row 1 of the sounds: sound 0 of the batch has 3 samples, too few"),
        (
            "wav2vec2",
            {"array": np.zeros(99), "sampling_rate": 8000},
            r"row 1 .*8000 samples a second.*16000: resample",
        ),
    ],
)
def test_what_cannot_be_read_is_named_in_one_line(kind: str, bad: Any, message: str, tmp_path: Path) -> None:
    (tmp_path / "no.png").write_bytes(b"no picture")
    bad = tmp_path / bad if isinstance(bad, str) else bad
    model = model_on(kind, tmp_path / "backbone", freeze_backbone=True)
    with pytest.raises(DataError, match=message) as caught:
        encode_media(model, PROCESSORS[kind], [items_of(kind)[0], bad], cache_dir=tmp_path / "cache")
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="give at least one"):
        encode_media(model, PROCESSORS[kind], [])
