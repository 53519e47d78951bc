"""docs/compatibility.md: every line of it is tried, and it has every line."""

from pathlib import Path

import compatible_models
import compatible_peft
import compatible_sentences
import compatible_training
import pytest
from compatible import LINES, Desk, Line, page
from conftest import TinyBackbone

MODULES = (compatible_models, compatible_training, compatible_peft, compatible_sentences)
PAGE = Path(__file__).resolve().parents[1] / "docs" / "compatibility.md"


@pytest.fixture(scope="module")
def desk(tiny_backbone: TinyBackbone) -> Desk:
    return Desk(tiny_backbone("bert"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("line", LINES, ids=lambda line: f"{line.area}: {line.what}")
def test_a_line(line: Line, desk: Desk) -> None:
    if not line.message:
        line.attempt(desk)
        return
    with pytest.raises(Exception, match=line.message):
        line.attempt(desk)


def test_the_page_has_these_lines() -> None:
    assert len(LINES) >= 80
    assert PAGE.read_text(encoding="utf-8") == page(), "write it with: make compatibility"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
