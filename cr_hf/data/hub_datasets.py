"""Data sets of the Hub, with one clear error where they cannot be had."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import datasets
import httpx2
from huggingface_hub import HfApi, constants

from ..errors import DataError

CONNECTION_SECONDS = 10.0
"""Until a Hub that does not answer is an error."""


def load_hub(name: str, config_name: str | None, revision: str | None, streaming: bool = False) -> Any:
    """What `datasets.load_dataset` returns for a data set of the Hub.

    Args:
        name: "owner/name".
        config_name: configuration; `None` for the default one.
        revision: commit, tag or branch; `None` for the newest.
        streaming: rows are read as they are needed.

    Raises:
        DataError: if the name is no Hub id, or the data set cannot be had.
    """
    if re.fullmatch(r"\w[\w.-]*/[\w.-]+", name) is None or Path(name).exists():
        # load_dataset would take the name of a folder, or "csv", for files of the working directory.
        raise DataError(f"data.name={name!r} is no Hub id: write owner/name, 'embedded', or use data.dir for files")
    try:
        is_cached = Path(datasets.config.HF_DATASETS_CACHE, name.replace("/", "___")).is_dir()
        if not is_cached and not constants.HF_HUB_OFFLINE:
            # load_dataset tries six times, for half a minute, before it says that there is no network.
            HfApi().dataset_info(name, revision=revision, timeout=CONNECTION_SECONDS)
        return datasets.load_dataset(name, config_name, revision=revision, streaming=streaming)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError, httpx2.HTTPError) as error:
        cause = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(
            f"Hub data set {name!r} cannot be loaded ({cause}): check its name and the connection; offline, give "
            "data.dir=FOLDER or data.name=embedded"
        ) from error
