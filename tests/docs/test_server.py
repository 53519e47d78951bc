"""The server of docs/serving.md: answers are those of the model, and requests at the same time are one batch."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from documents import ROOT, blocks

fastapi = pytest.importorskip("fastapi")
httpx = pytest.importorskip("httpx")


class Model:
    """Class 1 for long texts; "bad" is an error."""

    config = SimpleNamespace(id2label={0: "short", 1: "long"})

    def __init__(self) -> None:
        self.batches: list[int] = []

    def predict_texts(self, texts: list[str], tokenizer: Any) -> torch.Tensor:
        self.batches.append(len(texts))
        if "bad" in texts:
            raise ValueError("a text that is bad")
        return torch.tensor([[5.0, float(len(text))] for text in texts])


def app_of(page: Path, model: Model) -> Any:
    code = next(text for kind, _, text in blocks(page) if kind == "python" and "FastAPI" in text)
    assert len(code.splitlines()) <= 60
    names: dict[str, Any] = {"model": model, "tokenizer": None, "__name__": "server"}
    exec(compile(code, page.name, "exec"), names)
    return names["app"]


def test_requests_at_the_same_time_are_one_batch() -> None:
    model = Model()
    app = app_of(ROOT / "docs" / "serving.md", model)

    async def ask() -> tuple[list[Any], Any, Any, Any]:
        async with app.router.lifespan_context(app):
            client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server")
            together = await asyncio.gather(
                *(client.post("/classify", json={"texts": ["a" * size] * 2}) for size in range(20))
            )
            broken = await client.post("/classify", json={"texts": ["bad"]})
            empty = await client.post("/classify", json={"texts": []})
            return together, broken, empty, await client.post("/classify", json={"texts": ["after"]})

    together, broken, empty, after = asyncio.run(ask())
    for size, found in enumerate(together):
        expected = torch.tensor([5.0, float(size)]).softmax(-1).tolist()
        assert found.json() == [dict(zip(("short", "long"), expected, strict=True))] * 2
    assert sum(model.batches[:-2]) == 40
    assert len(model.batches[:-2]) < 10
    assert (broken.status_code, broken.json()) == (422, {"detail": "a text that is bad"})
    assert empty.status_code == 422
    assert after.status_code == 200


def test_a_client_that_has_gone_leaves_the_answers_of_the_others_in_place() -> None:
    app = app_of(ROOT / "docs" / "serving.md", Model())

    async def ask() -> Any:
        async with app.router.lifespan_context(app):
            gone: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            stays: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            await app.state.waiting.put((["a" * 9], gone))
            await app.state.waiting.put((["a"], stays))
            gone.cancel()
            return await stays

    (found,) = asyncio.run(ask())
    assert list(found.values()) == torch.tensor([5.0, 1.0]).softmax(-1).tolist()
