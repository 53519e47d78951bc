"""Records out of parquet files."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..errors import DataError
from .config import DataConfig
from .texts import FREE_BYTES, Records


def parquet_records(path: Path, config: DataConfig) -> Records:
    """Records of a parquet file in bounded memory, each with its row.

    Raises:
        DataError: naming the file, if it is none that can be read or unpacks to too much.
    """
    most = max(FREE_BYTES, config.max_unpacked_ratio * path.stat().st_size)
    too_much = (
        f"more than {config.max_unpacked_ratio:g} times its size: if that is meant, raise data.max_unpacked_ratio"
    )
    try:
        kinds = (pa.string(), pa.large_string())
        # A dictionary of a few long texts stays one: unpacked, every row has a copy.
        schema = pq.read_schema(path)
        if len(set(schema.names)) < len(schema.names):
            raise DataError(f"{path}: column names repeat: {schema.names[:50]}: rename them")
        texts = [field.name for field in schema if field.type in kinds]
        file = pq.ParquetFile(path, read_dictionary=texts)
        groups = [file.metadata.row_group(index) for index in range(file.metadata.num_row_groups)]
        unpacked = sum(group.total_byte_size for group in groups)
        if unpacked > most:
            raise DataError(f"{path}: unpacks to {unpacked} bytes, {too_much}")
        size = number = 0
        for batch in file.iter_batches(batch_size=128):
            found = [column.dictionary for column in batch.columns if pa.types.is_dictionary(column.type)]
            longest = max((pc.max(pc.binary_length(d)).as_py() or 1 for d in found if d.type in kinds), default=1)
            step = max(1, FREE_BYTES // longest)
            for start in range(0, len(batch), step):
                for record in batch.slice(start, step).to_pylist():
                    number += 1
                    size += sum(len(cell) for cell in record.values() if isinstance(cell, str))
                    if size > most:
                        raise DataError(f"{path}, row {number}: unpacks to {too_much}")
                    yield f"row {number}", record
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable parquet file ({error}): write it again") from error
