"""Tables as files: CSV, or Parquet when pyarrow is installed."""

from pathlib import Path

import pandas as pd

from canary_release.core.problems import FrameError

_PARQUET = (".parquet", ".pq")
_NO_PYARROW = "Parquet files need the package pyarrow: pip install pyarrow, or use a CSV file."


def read_table(name: str) -> pd.DataFrame:
    """The table in a file named ``*.parquet`` or anything else (CSV). FrameError when there is none."""
    path = Path(name)
    try:
        table = pd.read_parquet(path) if path.suffix in _PARQUET else pd.read_csv(path)
    except ImportError as error:
        raise FrameError(f"{name}: {_NO_PYARROW}") from error
    except OSError as error:
        raise FrameError(f"{name} cannot be read: {error.strerror or 'it is no such file'}.") from error
    except (ValueError, MemoryError) as error:
        raise FrameError(f"{name} is not a table: {str(error).splitlines()[0] if str(error) else 'empty'}.") from error
    return table


def write_table(table: pd.DataFrame, name: str) -> None:
    """Write ``*.parquet`` or ``*.csv``. FrameError for another ending, or when the file cannot be written."""
    path = Path(name)
    if path.suffix not in (*_PARQUET, ".csv"):
        raise FrameError(f"{name}: a table is written as *.csv or *.parquet.")
    try:
        if path.suffix in _PARQUET:
            table.to_parquet(path, index=False)
        else:
            table.to_csv(path, index=False)
    except ImportError as error:
        raise FrameError(f"{name}: {_NO_PYARROW}") from error
    except OSError as error:
        raise FrameError(f"{name} cannot be written: {error.strerror or error}.") from error
