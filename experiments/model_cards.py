"""From a folder of `cr-hf publish --dry-run` to its committed card: `python -m experiments.model_cards FOLDER`.

Copies the run's figures, notes size and SHA-256 of every file that would be published, and renders the card from the
copies, so that the card in git can be made again from what is in git.
"""

import json
import shutil
import sys
from pathlib import Path

from cr_hf.files import write_json
from cr_hf.hub.card import write_card
from cr_hf.hub.export import folder_digests

CARDS = Path(__file__).resolve().parents[1] / "model_cards"
# No licence is given for weights learned from Yelp's reviews, which are for academic use.
LICENSES = {"sst5_frozen": "apache-2.0"}


def render(card: Path) -> None:
    """Write the card of a folder that holds what `collect` put there."""
    about = json.loads((card / "about.json").read_text(encoding="utf-8"))
    write_card(card, name=about["folder"], license=about["license"])


def collect(exported: Path) -> Path:
    """Take over what an exported repository says of itself.

    Returns:
        The folder of its card.
    """
    card = CARDS / exported.name
    card.mkdir(exist_ok=True)
    for name in ("results.json", "config.json", "study.json"):
        if (exported / name).is_file():
            shutil.copyfile(exported / name, card / name)
    files = {
        name: {"bytes": (exported / name).stat().st_size, "sha256": digest}
        for name, digest in folder_digests(exported).items()
    }
    about = {"folder": exported.as_posix(), "license": LICENSES.get(exported.name), "files": files}
    write_json(card / "about.json", about)
    render(card)
    return card


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        print(collect(Path(argument)))
