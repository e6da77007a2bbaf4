"""What the plots of studies share: rows of a CSV, and runs compared by utterance."""

import collections
import dataclasses
import pathlib

import numpy as np

from experiments.sweeps import sweep
from wavernn_jax.evaluation import bootstrap

RESAMPLES = 2_000


@dataclasses.dataclass
class Cell:
  """The runs of a study that differ in seed alone.

  Attributes:
    row: columns of the first of them.
    seeds: of all, sorted.
    nll: mean over seeds, nats/sample; `nll_seeds` of each.
    nats_U: of each held-out utterance, mean over seeds.
    samples_U: of each held-out utterance.
  """

  row: dict
  seeds: list[int]
  nll: float
  nll_seeds: list[float]
  nats_U: np.ndarray
  samples_U: np.ndarray


def read_cells(path, key) -> dict:
  """Runs of a CSV and of `utterances.csv` beside it, grouped.

  Args:
    path: the CSV.
    key: row -> what the runs of a cell have in common.

  Returns:
    {key: Cell} in the order of the CSV.
  """
  by_run = collections.defaultdict(dict)
  for row in sweep.read_rows(pathlib.Path(path).with_name('utterances.csv')):
    by_run[row['name']][row['utterance']] = (
        float(row['nats_coarse']) + float(row['nats_fine']), int(row['samples']))
  groups = collections.defaultdict(list)
  for row in sweep.read_rows(path):
    groups[key(row)].append(row)
  cells = {}
  for name, rows in groups.items():
    rows.sort(key=lambda row: int(row['seed']))
    values = np.array([[by_run[row['name']][u] for u in sorted(by_run[row['name']])]
                       for row in rows])
    nll = [float(row['nll']) for row in rows]
    cells[name] = Cell(rows[0], [int(row['seed']) for row in rows], float(np.mean(nll)), nll,
                       values[..., 0].mean(axis=0), values[0, :, 1])
  return cells


def difference(cell: Cell, reference: Cell) -> tuple[float, float, float]:
  """NLL of a cell less that of another, with its 95% interval over utterances.

  Only seeds that both have would be a fairer mean; with few seeds the means of
  all are taken.
  """
  nats_U = cell.nats_U - reference.nats_U
  low, high = bootstrap.ratio_interval(nats_U, cell.samples_U, RESAMPLES, seed=0)
  return float(nats_U.sum() / cell.samples_U.sum()), low, high


def interval_bar(cell: Cell, reference: Cell | None) -> tuple[float, float]:
  """How far the interval of `difference` reaches below and above it; none without reference."""
  gap, low, high = difference(cell, reference) if reference else (0.0, 0.0, 0.0)
  return max(0.0, gap - low), max(0.0, high - gap)


def markdown(header: list[str], rows: list[list]) -> str:
  """A table; every row has the header's columns."""
  lines = [header, ['---'] * len(header), *rows]
  return ''.join('| ' + ' | '.join(str(x) for x in line) + ' |\n' for line in lines)
