"""From folders that `cr-hf publish --dry-run` wrote to their committed cards in model_cards/.

Copies the run's figures, notes size and SHA-256 of every file that would be published, and renders the card from the
copies, so that the card in git can be made again from what is in git.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

from cr_hf.files import write_json
from cr_hf.hub import write_card
from cr_hf.hub.upload import folder_digests

from .runner import ROOT

CARDS = ROOT / "model_cards"
COPIED = ("results.json", "config.json", "study.json")
# No licence is given for weights learned from Yelp's reviews, which are for academic use.
LICENSES = {"sst5_frozen": "apache-2.0"}


def collect(exported: Path, namespace: str) -> Path:
    """Take over what an exported repository says of itself, and return the folder of its card."""
    card = CARDS / exported.name
    card.mkdir(exist_ok=True)
    for name in COPIED:
        if (exported / name).is_file():
            shutil.copyfile(exported / name, card / name)
    digests = folder_digests(exported)
    files = {name: {"bytes": (exported / name).stat().st_size, "sha256": one} for name, one in digests.items()}
    about = {"name": f"{namespace}/{exported.name}", "license": LICENSES.get(exported.name), "files": files}
    write_json(card / "about.json", about)
    write_card(card, name=about["name"], license=about["license"])
    return card


def main(argv: Sequence[str] | None = None) -> None:
    """Write model_cards/NAME of each folder."""
    parser = argparse.ArgumentParser(prog="python -m experiments.model_cards", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--namespace", default="your-name", help="of the repositories, by default %(default)s")
    options = parser.parse_args(argv)
    for folder in options.folders:
        print(collect(folder, options.namespace))


if __name__ == "__main__":
    main()
