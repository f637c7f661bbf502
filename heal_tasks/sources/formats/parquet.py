"""Parquet tables to JSON Lines, which the reader of tables turns into a document per row.

Columns of bytes and of lists of numbers (pictures, vectors) are left out.
"""

import json
import math
from typing import Any

from heal_tasks.sources.extract import Extract, UnreadableError

_ROWS = 1000
_MAX_COLUMNS = 1000


def extract_parquet(data: bytes, max_chars: int) -> Extract:
    """Extract the rows of a table as JSON Lines, values that JSON has not as text.

    Raises:
        UnreadableError: it is no Parquet file, or its rows have more than ``max_chars`` characters.
    """
    import pyarrow
    import pyarrow.parquet as parquet

    # The process may start no threads, and an allocator of its own reserves more than it may have.
    pyarrow.set_memory_pool(pyarrow.system_memory_pool())
    lines: list[str] = []
    length = 0
    try:
        file = parquet.ParquetFile(pyarrow.BufferReader(data), pre_buffer=False)
        names = [field.name for field in file.schema_arrow if _is_kept(pyarrow, field.type)][:_MAX_COLUMNS]
        for batch in file.iter_batches(batch_size=_ROWS, columns=names, use_threads=False):
            for row in batch.to_pylist():
                lines.append(json.dumps(_plain(row), ensure_ascii=False, default=str))
                length += len(lines[-1]) + 1
            if length > max_chars:
                raise UnreadableError(f"the table has more than {max_chars} characters as JSON Lines; split it")
    except pyarrow.ArrowException as error:
        reason = str(error).partition("\n")[0][:200]
        raise UnreadableError(f"the file is no Parquet table that can be read ({reason}); write it again") from error
    return Extract("", "\n".join(lines))


def _is_kept(pyarrow: Any, kind: Any) -> bool:
    types = pyarrow.types
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        return False
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        inner = kind.value_type
        return not (types.is_floating(inner) or types.is_integer(inner)) and _is_kept(pyarrow, inner)
    return True


def _plain(value: Any) -> Any:
    """A value as JSON has it; what is no finite number is null, and bytes are left out."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items() if not isinstance(item, bytes)}
    if isinstance(value, list):
        return [_plain(item) for item in value if not isinstance(item, bytes)]
    return None if isinstance(value, float) and not math.isfinite(value) else value
