"""What a recipe says of its data."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import DataError


@dataclass
class DataConfig:
    """Where the rows are and how they are read. `dir` or a file, when given, is read instead of `name`.

    Args:
        name: a Hub data set, "owner/name", or "embedded" for the synthetic demo reviews.
        config_name: configuration of the Hub data set.
        revision: commit, tag or branch of the Hub data set.
        dir: folder of the files; splits not named below are found in it by file name.
        train_file: one path or several, relative to `dir` if that is given; so are the next two.
        validation_file: absent, a stratified part of train is split off.
        test_file: may be absent.
        text_column: None finds it among the usual names.
        text_pair_column: second text of a pair; None means single texts.
        label_column: None finds it among the usual names.
        label_names: classes in order; the labels are then these names or 0..K-1. None takes the names of the Hub data
            set, or else the values found in train, numbers in numerical order.
        validation_fraction: of train, used where there is no validation split; never taken from test.
        train_fraction: stratified part of train to keep, for runs with few labels; a larger part contains a smaller.
        max_train_samples: upper limit of rows, stratified.
        max_eval_samples: the same for validation and for test.
        unescape_ptb: turn Penn Treebank escapes (-LRB-, \\/, ``) back; None means only for SST-5.
        encoding: of text files; a UTF-8 byte order mark is accepted.
        streaming: read the rows of train as training needs them, see `streaming.py`; for fine-tuning alone.
        seed: of the validation split and of the subsets.
        feature_columns: of a table, see `feature_tables.py`, which the next three are for too; None means every column
            but the label's. A csv without a header has the columns 0, 1, 2, ...
        missing_value: what stands for a missing value, such as 0, "" or "NA"; it is replaced by the column's median
            over the training rows. None means that a missing value is an error.
        missing_columns: those in which it does; None means all feature columns.
        test_fraction: of train, put apart where there is no test split; 0 means none.

    Raises:
        DataError: if a number is out of its range, or `label_names` are fewer than two or repeat.
    """

    name: str | None = None
    config_name: str | None = None
    revision: str | None = None
    dir: str | None = None
    train_file: str | list[str] | None = None
    validation_file: str | list[str] | None = None
    test_file: str | list[str] | None = None
    text_column: str | None = None
    text_pair_column: str | None = None
    label_column: str | int | None = None
    label_names: list[str] | None = None
    validation_fraction: float = 0.1
    train_fraction: float = 1.0
    max_train_samples: int | None = None
    max_eval_samples: int | None = None
    unescape_ptb: bool | None = None
    encoding: str = "utf-8"
    streaming: bool = False
    seed: int = 0
    feature_columns: list[str | int] | None = None
    missing_value: float | str | None = None
    missing_columns: list[str | int] | None = None
    test_fraction: float = 0.0

    def __post_init__(self) -> None:
        """Check what can be checked without reading."""
        if not 0 < self.validation_fraction < 1:
            raise DataError(f"data.validation_fraction={self.validation_fraction} must be between 0 and 1")
        if not 0 <= self.test_fraction < 1:
            raise DataError(f"data.test_fraction={self.test_fraction} must be 0 or above and below 1")
        if not 0 < self.train_fraction <= 1:
            raise DataError(f"data.train_fraction={self.train_fraction} must be above 0 and at most 1")
        for key, least in (("max_train_samples", 1), ("max_eval_samples", 1), ("seed", 0)):
            limit = getattr(self, key)
            if limit is not None and not (isinstance(limit, int) and limit >= least):
                raise DataError(f"data.{key}={limit} must be a whole number from {least}, or leave it out")
        if self.label_names is not None:
            self.label_names = [str(name) for name in self.label_names]
            if len(self.label_names) < 2 or len(set(self.label_names)) < len(self.label_names):
                raise DataError(f"data.label_names={self.label_names} must be two or more different names")

    @property
    def reads_files(self) -> bool:
        """Whether files are read, whatever `name` says."""
        return any((self.dir, self.train_file, self.validation_file, self.test_file))
