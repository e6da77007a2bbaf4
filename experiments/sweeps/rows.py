"""Rows of a CSV, which a kill never leaves half written."""

import csv
import io
import pathlib

from wavernn_jax import files


def read_rows(path) -> list[dict]:
  """Rows of a CSV as dicts of strings; none if there is no such file."""
  path = pathlib.Path(path)
  return list(csv.DictReader(path.read_text().splitlines())) if path.exists() else []


def replace_rows(path, name: str, rows: list[dict]) -> None:
  """Puts a run's rows in place of any it had; the file is replaced whole.

  A column that is new is empty in older rows.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  rows = [row for row in read_rows(path) if row['name'] != name] + rows
  columns = list(dict.fromkeys(column for r in rows for column in r))
  text = io.StringIO()
  writer = csv.DictWriter(text, columns, lineterminator='\n')
  writer.writeheader()
  writer.writerows(rows)
  files.write_text(path, text.getvalue())
