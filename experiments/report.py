"""The tables of README.md and results/README.md, written from the rows of experiments/results.

    python -m experiments.report
    python -m experiments.report --check
    python -m experiments.report --run=tiny|small|full --data_dir=DIR [--workdir=RUNS]
    python -m experiments.report --ratings=FILE.json,… [--workdir=RUNS]

A table stands between `<!-- report:NAME -->` and `<!-- /report -->`, and is written by
`BLOCKS[NAME]` from the CSVs and JSON files of finished runs, so no row is typed by hand,
let alone in two files. A table without rows names the command that makes them.
`--check` writes nothing, and fails if a table differs from the rows. `--run` makes the
systems of the paper at a size, or goes on with them, and RUNS/report of them: their table as
Markdown and CSV, pictures, and a page to listen to with a blind test (systems_report.py).
`--ratings` turns what listeners saved on that page into means with 95% intervals. The last
line is one JSON object.
"""

from collections.abc import Callable
import functools
import json
import pathlib
import re

from absl import flags

from experiments import cli, systems_report
from experiments.sweeps import (
  cells as cells_lib,
  fine_tuning,
  ljspeech,
  paper,
  prediction,
  sparse_vs_dense,
  study,
  subscale,
  systems,
)
from wavernn_jax import files
from wavernn_jax.errors import InputError

ROOT = pathlib.Path(__file__).parent.parent
PAGES = ROOT / 'README.md', ROOT / 'experiments' / 'results' / 'README.md'
STUDIES = (prediction.STUDY, systems.STUDY, sparse_vs_dense.STUDY, subscale.STUDY,
           fine_tuning.STUDY, paper.STUDY, ljspeech.STUDY)
SUPERSEDED = sparse_vs_dense.STUDY, subscale.STUDY  # have rows from before the prediction
_START, _END = '<!-- report:{} -->', '<!-- /report -->'
_BLOCK = re.compile(r'<!-- report:(\S+) -->\n(.*?)<!-- /report -->', re.DOTALL)
_ANY_MARK = re.compile(r'<!-- /?report\b.*?-->')


def study_table(which: study.Study, folder: pathlib.Path) -> str:
  """The table of a study's rows."""
  cells = cells_lib.read_cells(folder / 'runs.csv', which.key)
  return which.table(cells) if cells or which is ljspeech.STUDY else _no_rows(which)


def tuning_table(which: study.Study) -> str:
  """The rates that a study has tried."""
  path = which.results() / 'tuning.csv'
  return study.tuning_table(path) if path.exists() else _no_rows(which)


def _no_rows(which: study.Study) -> str:
  return f'Not run yet: `python -m {which.module} --do=run --data_dir=DIR`.\n'


def evaluation_table(path: pathlib.Path, name: str) -> str:
  """What --mode=evaluate has written, beside its baselines: NLL with 95% intervals."""
  result = _read_json(path)
  rows = [[label, *(f'{scores[key]:.3f}' if key in scores else '' for key in _NLL)]
          for label, scores in result['baselines'].items()]
  rows.append([name, *('{:.3f} [{:.3f}, {:.3f}]'.format(result[key], *result[f'{key}_interval'])
                       for key in _NLL)])
  return cells_lib.markdown(['nats/sample', 'coarse', 'fine', 'total'], rows)


_NLL = 'nll_coarse', 'nll_fine', 'nll'


def cpu_table(path: pathlib.Path) -> str:
  """The speed of the CPU engine against what pruning leaves (benchmarks/cpu_sampling.py)."""
  rows = [[row['units'], f'{row["density"]:.0%}', f'{row["parameters"]:,}', row['weights'],
           f'{row["us_per_sample"]:.2f}', f'{1e6 / row["us_per_sample"]:,.0f}',
           f'{row["realtime_factor"]:.1f}', row['commit'], row['date']]
          for row in _read_json(path)['rows'] if row['threads'] == 1]
  return cells_lib.markdown(
      ['units', 'density', 'parameters', 'weights', 'µs/sample', 'samples/s',
       'times real time', 'commit', 'date'], rows)


def _read_json(path: pathlib.Path) -> dict:
  try:
    return json.loads(path.read_text())
  except (OSError, ValueError) as error:
    raise InputError(f'{path}: found {error!r}, expected the JSON of a finished run.') from error


def blocks() -> dict[str, Callable[[], str]]:
  """Name of a table -> the function that writes it."""
  results = study.RESULTS
  found = {
      'dense_small': functools.partial(
          evaluation_table, results / 'dense_small' / 'evaluation_test.json',
          'dense WaveRNN, 192 units, `none`'),
      'cpu_sampling': functools.partial(cpu_table, results / 'cpu_sampling' / 'curve.json')}
  for which in STUDIES:
    found[which.name] = functools.partial(study_table, which, which.results())
    found[f'{which.name}_tuning'] = functools.partial(tuning_table, which)
  for which in SUPERSEDED:
    found[f'superseded_{which.name}'] = functools.partial(
        study_table, which, results / 'superseded' / which.name)
  return found


def rewritten(text: str, tables: dict[str, Callable[[], str]], where: str) -> str:
  """A page with its tables as the rows have them.

  Raises:
    InputError: naming a mark that no table, start or end belongs to.
  """
  def one(match: re.Match) -> str:
    name = match[1]
    if name not in tables:
      raise InputError(f'{where}: found the mark {_START.format(name)}, expected one of '
                       f'{", ".join(tables)}.')
    return f'{_START.format(name)}\n{tables[name]()}{_END}'

  if stray := _ANY_MARK.search(_BLOCK.sub(_without_inner_marks, text)):
    raise InputError(f'{where}: found the mark {stray[0]} alone, expected {_START.format("NAME")} '
                     f'on a line of its own and {_END} after the table.')
  return _BLOCK.sub(one, text)


def _without_inner_marks(match: re.Match) -> str:
  return ''.join(_ANY_MARK.findall(match[2]))


def stale() -> dict[pathlib.Path, str]:
  """Pages whose tables are not what the rows say -> their new text."""
  found, tables = {}, blocks()
  for path in PAGES:
    text = path.read_text()
    if (new := rewritten(text, tables, str(path))) != text:
      found[path] = new
  return found


def main() -> None:
  given = flags.FLAGS
  if given.run:
    systems_report.run(given.run, given.data_dir, given.workdir, given.executor)
  elif given.ratings:
    systems_report.rate(given.ratings, given.workdir)
  else:
    _write_pages()


def _write_pages() -> None:
  pages = stale()
  names = [str(path.relative_to(ROOT)) for path in pages]
  if flags.FLAGS.check and pages:
    raise InputError(f'{", ".join(names)}: tables are not what experiments/results says; run '
                     'python -m experiments.report.')
  for path, text in pages.items():
    files.write_text(path, text)
  print(json.dumps({'pages': [str(path.relative_to(ROOT)) for path in PAGES],
                    'rewritten': names}))


if __name__ == '__main__':
  flags.DEFINE_enum('run', None, list(paper.STUDY.variants), 'Make the systems at this size.')
  flags.DEFINE_string('data_dir', '', 'Corpus of --run, with train, valid and test.')
  flags.DEFINE_string('workdir', 'runs/report', 'Folder of the runs of --run and of its report.')
  flags.DEFINE_string('executor', 'process', 'Where runs train: process or ray[,…].')
  flags.DEFINE_list('ratings', [], 'Files that listeners saved on the page in --workdir.')
  flags.DEFINE_bool('check', False, 'Write nothing; fail if a table is stale.')
  cli.run(main)
