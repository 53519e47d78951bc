"""Fixtures of the tests of models."""

from collections.abc import Iterator

import pytest
import torch
from torch._dynamo.utils import counters


@pytest.fixture
def fresh_dynamo() -> Iterator[None]:
    """torch.compile without what earlier tests left behind."""
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()
