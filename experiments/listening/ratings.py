"""Ratings that listeners saved on a report's page -> means with 95% intervals.

  python -m experiments.listening.ratings --report=report.html FILE.json …

Takes the page's JSON and both of its CSV files in webMUSHRA's form. What is
malformed, of another report, or given twice by a listener is named and left out.
"""

import collections
import dataclasses
import json
import math
import sys

from absl import flags
import numpy as np
from scipy import stats

from experiments import cli
from experiments.listening import document, rating_files, tables
from experiments.listening.rating_files import Rating
from wavernn_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Mean:
  """The mean of one system (MOS), or of a pair (A/B; above 0 if the second is better).

  Attributes:
    names: one or two.
    mean: of the ratings.
    low, high: its 95% interval; NaN for a single rating.
    over: what the interval generalises to.
    ratings, listeners, items: how many there are; an item is a sentence.
  """

  names: tuple[str, ...]
  mean: float
  low: float
  high: float
  over: str
  ratings: int
  listeners: int
  items: int


@dataclasses.dataclass(frozen=True)
class Summary:
  """Means in the order of the report, and a message for each rating that was left out."""

  mos: list[Mean]
  ab: list[Mean]
  problems: list[str]

  def tables(self) -> list[document.Table]:
    """The means as a table, for a report or for `tables.markdown`."""
    note = 'Mean with its 95% interval.'
    both = [_table('Mean opinion score (1…5)', ['system'], self.mos, note),
            _table('A/B (−3…+3)', ['first', 'second'], self.ab,
                   f'{note} Above 0 the second is better.')]
    return [table for table in both if table.rows]


def summarise(paths, manifest: document.Manifest) -> Summary:
  """Means of all ratings of a report that the files hold.

  Args:
    paths: of JSON or CSV files; of what a listener has rated twice, the first counts.
    manifest: of the report, from `document.read_manifest` or `document.manifest`.

  Raises:
    InputError: if nothing usable is left.
  """
  found, problems = {}, []
  for path in paths:
    try:
      ratings, bad = rating_files.read(path, manifest)
    except ValueError as error:
      problems.append(f'{path}: {error}')
      continue
    problems += [f'{path}: {problem}' for problem in bad]
    problems += _add(found, ratings, path)
  if not found:
    raise InputError('--ratings: no usable rating in the files' + ''.join(
        f'\n  {problem}' for problem in problems))
  ratings = [rating for rating, _ in found.values()]
  names = [document.RECORDING, *manifest.systems]
  return Summary(_means(ratings, 'mos', [(name,) for name in names]),
                 _means(ratings, 'ab', manifest.pairs), problems)


def mean_interval(values, listeners, items, level: float = 0.95) -> tuple[float, float, str]:
  """t interval of the mean of ratings, and what it is over.

  Ratings of one listener are alike, and so are those of one sentence. Where there
  are several of both, the variance of the mean is that of sums by listener plus that
  by sentence less that of single ratings, which both of them count (two-way
  clustering), with the degrees of freedom of the fewer. With one listener it is the
  ordinary interval over sentences, with one sentence that over listeners.

  Args:
    values: of N ratings.
    listeners, items: which gave and which got each of them.
    level: coverage.

  Returns:
    (low, high, 'listeners and items', 'items of one listener', …); NaNs for one rating.
  """
  values = np.asarray(values, np.float64)
  mean, rest = values.mean(), values - values.mean()
  by_listener, by_item = _sums(rest, listeners), _sums(rest, items)
  if len(by_listener) > 1 and len(by_item) > 1:
    one, other, both = (_variance(sums, len(values)) for sums in (by_listener, by_item, rest))
    variance, freedom = max(one + other - both, one, other), min(len(by_listener), len(by_item)) - 1
    over = 'listeners and items'
  elif len(by_listener) > 1:
    variance, freedom = _variance(by_listener, len(values)), len(by_listener) - 1
    over = 'listeners, one item'
  elif len(by_item) > 1:
    variance, freedom = _variance(by_item, len(values)), len(by_item) - 1
    over = 'items of one listener'
  else:
    return math.nan, math.nan, 'nothing: one rating'
  half = stats.t.ppf((1 + level) / 2, freedom) * variance**0.5
  return float(mean - half), float(mean + half), over


def _sums(rest, groups) -> np.ndarray:
  _, index = np.unique(np.asarray(groups), return_inverse=True)
  return np.bincount(index, rest)


def _variance(sums, ratings: int) -> float:
  return float(len(sums) / (len(sums) - 1) * np.sum(sums**2) / ratings**2)


def _means(ratings, kind: str, order) -> list[Mean]:
  groups = collections.defaultdict(list)
  for rating in ratings:
    if rating.kind == kind:
      groups[rating.names].append(rating)
  return [_mean(groups[names]) for names in order if names in groups]


def _mean(ratings: list[Rating]) -> Mean:
  values = [rating.value for rating in ratings]
  listeners = [rating.listener for rating in ratings]
  items = [rating.sentence for rating in ratings]
  return Mean(ratings[0].names, float(np.mean(values)), *mean_interval(values, listeners, items),
              len(values), len(set(listeners)), len(set(items)))


def _add(found: dict, ratings: list[Rating], path) -> list[str]:
  """Adds ratings that are new; returns a message if others were there already."""
  doubled = collections.Counter()
  for rating in ratings:
    _, before = found.setdefault(rating.question, (rating, path))
    if found[rating.question][0] is not rating:
      doubled[rating.listener, str(before)] += 1
  return [f'{path}: {count} of its ratings left out as doubled: listener {listener!r} has given '
          f'them in {"this very file" if before == str(path) else before} already; give each '
          'file once, and each listener a name of their own.'
          for (listener, before), count in doubled.items()]


# Output


def _table(title: str, columns, means: list[Mean], note: str) -> document.Table:
  rows = [[*m.names, _with_interval(m), m.over, m.ratings, m.listeners, m.items] for m in means]
  return document.Table(title, [*columns, 'mean', 'interval over', 'ratings', 'listeners', 'items'],
                        rows, note)


def _with_interval(mean: Mean) -> str:
  if math.isnan(mean.low):
    return f'{mean.mean:.2f}'
  return f'{mean.mean:.2f} [{mean.low:.2f}, {mean.high:.2f}]'


def _json_object(mean: Mean) -> dict:
  return {name: None if value != value else value  # JSON has no NaN
          for name, value in dataclasses.asdict(mean).items()}


def as_json(summary: Summary) -> dict:
  """Everything that a summary holds, for JSON."""
  return {'mos': list(map(_json_object, summary.mos)), 'ab': list(map(_json_object, summary.ab)),
          'problems': summary.problems}


def main(paths) -> None:
  if not paths:
    raise InputError('no file of ratings is given; put them after the flags.')
  summary = summarise(paths, document.read_manifest(flags.FLAGS.report))
  for problem in summary.problems:
    print(f'warning: {problem}', file=sys.stderr)
  for table in summary.tables():
    print(tables.markdown(table))
  print(json.dumps(as_json(summary)))


if __name__ == '__main__':  # as a library it leaves the flags to others
  flags.DEFINE_string('report', None, 'HTML file of the listening test.', required=True)
  cli.run_with_arguments(lambda argv: main(argv[1:]))
