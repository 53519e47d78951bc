"""A finished run: its recipe, its results, its model, and how it reads rows.

A folder that is no run, and a file or a column that is missing, are told without importing anything heavy.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data import DataConfig, TableSchema, check_inputs, input_paths, separator_of
from ..errors import CheckpointError, DataError
from ..files import Json, html_table, read_json
from .directory import RECIPE, RESULTS, TABLE, check_finished
from .recipe import Kind, load_recipe
from .row_kinds import NO_BACKBONE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..evaluation import Task


class Run:
    """A finished run. Its model, tokenizer, results and schema are read on first use.

    Args:
        path: the run directory.

    Raises:
        CheckpointError: if the directory holds no finished run; later, if a file of it is damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        check_finished(self.path)
        self.recipe = load_recipe(self.path / RECIPE)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def _repr_html_(self) -> str:
        """What a notebook shows: the metrics by split."""
        from .results import metric_table

        return html_table(metric_table(self.results["metrics"]))

    @property
    def kind(self) -> Kind:
        """What its rows are: "texts", or "table" for rows of numbers."""
        return self.recipe.kind

    @cached_property
    def results(self) -> Json:
        """What `results.json` holds."""
        return read_json(self.path / RESULTS, "train the run again")

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        from ..modeling import CRForImageClassification, CRForSequenceClassification
        from ..training import load_model

        kind = CRForImageClassification if self.recipe.reads_images else CRForSequenceClassification
        return load_model(self.path, self.recipe.backbone == NO_BACKBONE, kind)

    @property
    def model(self) -> Any:
        """The classifier."""
        return self._loaded[0]

    @property
    def tokenizer(self) -> Any:
        """Of the backbone: its tokenizer or image processor; `None` for the run of a table."""
        return self._loaded[1]

    @property
    def task(self) -> Task:
        """What the model is asked."""
        from ..evaluation import Task

        return Task.of(self.model.config)

    @cached_property
    def schema(self) -> TableSchema:
        """How the run of a table reads its rows."""
        path, mend = self.path / TABLE, "copy it again, or train it anew"
        try:
            return TableSchema(**read_json(path, mend))
        except TypeError as error:
            raise CheckpointError(f"{path} is damaged ({error}): {mend}") from error

    @property
    def reference(self) -> Json:
        """What `reference_diagnostics` kept in the results.

        Raises:
            CheckpointError: if the run has none.
        """
        if "diagnostics" not in self.results:
            raise CheckpointError(f"{self.path} was trained before diagnostics were kept: train it again")
        return dict(self.results["diagnostics"])

    def data(self, overrides: Mapping[str, Any] | None = None) -> DataConfig:
        """How rows are read: as the recipe says and training settled, unless `overrides`, fields of it, say else."""
        data = self.recipe.data
        try:
            settled = (self.results["data"].get("understood") or {}).get("reading", {})
            left_open = {name: value for name, value in settled.items() if getattr(data, name) is None}
        except (AttributeError, KeyError, TypeError) as error:
            raise CheckpointError(f"{self.path / RESULTS} is damaged ({error}): train the run again") from error
        return dataclasses.replace(data, **{**left_open, **(overrides or {})})

    def check_data(self, overrides: Mapping[str, Any] | None = None) -> None:
        """Refuse files of labelled rows that are missing or lack a column; what stands below the header is not read.

        Raises:
            DataError: as `evaluate_run` would.
        """
        dataclasses.replace(self.recipe, data=self.data(overrides)).check_data()

    def check_inputs(self, source: Sequence[str], overrides: Mapping[str, Any] | None = None) -> None:
        """The same for what is given to be predicted.

        Raises:
            DataError: as `predict_run` and `diagnose_run` would.
        """
        if self.kind == "table":
            source = [str(self._table_file(source))]
        check_inputs(source, self.data(overrides), self.schema if self.kind == "table" else None)

    def separator(self, source: Sequence[str], overrides: Mapping[str, Any] | None = None) -> str:
        """What stands between the columns of the first file given, for a csv of its predictions; or else a comma."""
        return next((separator_of(path, self.data(overrides)) for path in input_paths(source)), ",")

    def _table_file(self, files: Sequence[str]) -> Path:
        if len(files) != 1:
            raise DataError(
                f"{self.path} is the run of a table: give one file of rows, with the columns of its training table"
            )
        return Path(os.path.expanduser(files[0]))

    def table_rows(
        self, files: Sequence[str], overrides: Mapping[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], list[dict[str, Any]]]:
        """Rows of a file for the run of a table: features, shape (rows, in_features), and the rows' own columns.

        Raises:
            DataError: unless there is one file, with the columns that the model reads.
        """
        from ..data import read_rows

        rows, records = read_rows(self._table_file(files), self.data(overrides), self.schema)
        return self.row_features(rows), records

    def row_features(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Features of the rows of a table, or of images, as `load_tables` reads them."""
        import numpy as np

        from .row_features import row_features

        return np.array(row_features(self.model, self.tokenizer, rows, self.schema.shape))
