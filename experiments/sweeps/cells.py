"""Runs that differ in seed alone, and how they compare: over seeds and over utterances."""

import collections
import dataclasses
import math
import pathlib
import warnings

import numpy as np
from scipy import stats

from experiments.sweeps import rows as rows_lib
from wavernn_jax.evaluation import bootstrap

RESAMPLES = 2_000
LEVEL = 0.95


@dataclasses.dataclass
class Cell:
  """The runs of a study that differ in seed alone.

  Attributes:
    rows: one a seed, sorted.
    nats: of each seed and held-out utterance.
    samples: of each held-out utterance.
    coarse: the nats of the coarse bytes among `nats`.
  """

  rows: list[dict]
  nats: np.ndarray
  samples: np.ndarray
  coarse: np.ndarray

  @property
  def row(self) -> dict:
    return self.rows[0]

  @property
  def seeds(self) -> list[int]:
    return [int(row['seed']) for row in self.rows]

  @property
  def nll_seeds(self) -> list[float]:
    return [float(row['nll']) for row in self.rows]

  @property
  def nll(self) -> float:
    """Mean over seeds, nats/sample."""
    return float(np.mean(self.nll_seeds))


@dataclasses.dataclass(frozen=True)
class Difference:
  """NLL of a cell less that of another over the seeds that both have, nats/sample.

  Attributes:
    mean: over seeds.
    utterances: 95% interval of it, of a paired bootstrap over held-out utterances: would
      these weights differ so on other sentences?
    seeds: 95% t interval over the differences of single seeds: would other runs differ
      so? NaNs for one seed.
  """

  mean: float
  utterances: tuple[float, float]
  seeds: tuple[float, float]


def read_cells(path, key) -> dict:
  """Runs of a CSV and of `utterances.csv` beside it, grouped.

  A run that was not evaluated on the utterances of the first one, which no other may be
  compared with, is left out with a warning.

  Args:
    path: the CSV.
    key: row -> what the runs of a cell have in common.

  Returns:
    {key: Cell} in the order of the CSV.
  """
  by_run = _by_run(pathlib.Path(path).with_name('utterances.csv'))
  groups, first = collections.defaultdict(list), None
  for row in rows_lib.read_rows(path):
    held_out = {name: samples for name, (samples, *_) in by_run[row['name']].items()}
    first = first or held_out
    if not held_out or held_out != first:
      warnings.warn(f'{path}: {row["name"]} was evaluated on other utterances than the first '
                    'run, or its rows in utterances.csv are missing; it is left out.',
                    stacklevel=2)
      continue
    groups[key(row)].append(row)
  return {name: _cell(rows, by_run) for name, rows in groups.items()}


def _by_run(path) -> dict:
  """Run -> utterance -> (samples, nats, coarse nats)."""
  found = collections.defaultdict(dict)
  for row in rows_lib.read_rows(path):
    found[row['name']][row['utterance']] = (
        int(row['samples']), float(row['nats_coarse']) + float(row['nats_fine']),
        float(row['nats_coarse']))
  return found


def _cell(rows: list[dict], by_run: dict) -> Cell:
  rows = sorted(rows, key=lambda row: int(row['seed']))
  values = np.array([[by_run[row['name']][u] for u in sorted(by_run[row['name']])]
                     for row in rows])
  return Cell(rows, values[..., 1], values[0, :, 0], values[..., 2])


def difference(cell: Cell, reference: Cell) -> Difference | None:
  """How a cell compares with another; None if they share no seed."""
  common = sorted(set(cell.seeds) & set(reference.seeds))
  if not common:
    return None
  gaps = (cell.nats[[cell.seeds.index(s) for s in common]]
          - reference.nats[[reference.seeds.index(s) for s in common]])
  by_seed = gaps.sum(axis=1) / cell.samples.sum()
  over_utterances = bootstrap.ratio_interval(gaps.mean(axis=0), cell.samples, RESAMPLES, seed=0)
  return Difference(float(by_seed.mean()), over_utterances, t_interval(by_seed))


def mean_interval(nats, cell: Cell) -> tuple[float, float, float]:
  """Nats/sample, and the 95% bootstrap interval over utterances of the mean over seeds.

  Args:
    nats: of each seed and utterance of the cell: all, or the coarse or the fine ones.
    cell: that they belong to.
  """
  of_utterance = nats.mean(axis=0)
  return (float(of_utterance.sum() / cell.samples.sum()),
          *bootstrap.ratio_interval(of_utterance, cell.samples, RESAMPLES, seed=0))


def t_interval(values) -> tuple[float, float]:
  """95% interval of the mean of independent values; NaNs for fewer than two."""
  if len(values) < 2:
    return math.nan, math.nan
  reach = stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * stats.sem(values)
  return float(np.mean(values) - reach), float(np.mean(values) + reach)


def interval_bar(cell: Cell, reference: Cell | None) -> tuple[float, float]:
  """How far the interval over utterances reaches below and above; none without reference."""
  gap = difference(cell, reference) if reference else None
  if gap is None or math.isnan(gap.utterances[0]):
    return 0.0, 0.0
  low, high = gap.utterances
  return max(0.0, gap.mean - low), max(0.0, high - gap.mean)


# Markdown

GAP_HEADER = ['over utterances', 'over seeds']


def gap_columns(cell: Cell, reference: Cell | None) -> list[str]:
  """A difference and its two intervals, as GAP_HEADER has them after the difference."""
  if reference is None or reference is cell or (gap := difference(cell, reference)) is None:
    return ['', '', '']
  return [f'{gap.mean:+.3f}', *map(_interval, (gap.utterances, gap.seeds))]


def _interval(bounds: tuple[float, float]) -> str:
  return '' if math.isnan(bounds[0]) else '[{:+.3f}, {:+.3f}]'.format(*bounds)


def mean(cell: Cell, column: str, digits: int) -> str:
  """Mean of a column over the seeds that have it."""
  values = [float(row[column]) for row in cell.rows if row.get(column)]
  return f'{np.mean(values):.{digits}f}' if values else ''


COST_HEADER = ['rate', 'samples seen', 'CPU-hours']


def cost_columns(cell: Cell) -> list[str]:
  """Learning rate, samples seen and mean CPU-hours of a run; empty where a row lacks them."""
  row = cell.row
  hours = [float(r['cpu_hours']) for r in cell.rows if r.get('cpu_hours')]
  seen = int(row['updates']) * int(row['batch']) * int(row['crop'])
  return [f'{float(row["learning_rate"]):g}' if row.get('learning_rate') else '',
          f'{seen / 1e6:.1f} M', f'{np.mean(hours):.2f}' if hours else '']


def markdown(header: list[str], rows: list[list]) -> str:
  """A table; every row has the header's columns."""
  lines = [header, ['---'] * len(header), *rows]
  return ''.join('| ' + ' | '.join(str(x) for x in line) + ' |\n' for line in lines)
