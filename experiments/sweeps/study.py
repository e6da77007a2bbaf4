"""A study: its systems, their runs, its table and its pictures, in one file each.

    python -m experiments.sweeps.NAME --do=run --data_dir=DIR [--workdir=RUNS] [--executor=ray,…]
    python -m experiments.sweeps.NAME --do=report

`run` first tunes the learning rate of each system, since one rate for all would compare
how well it suits each of them: it trains one seed at every rate of the study for fewer
updates, adds these rows to tuning.csv, and takes the rate with the least valid NLL. A few
hundred updates do not tell it: the rate that was best for 500 was 0.07 nats worse than
others for 3,000. Then it trains all seeds at that rate, and adds their test NLL to
runs.csv and utterances.csv.
Finished rows are skipped and stopped runs go on, so the command may be repeated at will.
`report` draws the pictures beside the CSVs and prints the table; the tables of README.md
come from `python -m experiments.report`. The last line of both is one JSON object.
`--variant=tiny` is the study at a size of seconds, for tests; its rows go to --workdir.
"""

from collections.abc import Callable
import dataclasses
import functools
import json
import math
import pathlib
import sys
import warnings

from absl import flags

from experiments import cli
from experiments.sweeps import cells as cells_lib, rows as rows_lib, runs as runs_lib
from wavernn_jax import executors
from wavernn_jax.config import Config
from wavernn_jax.errors import InputError
from wavernn_jax.evaluation import pictures

RESULTS = pathlib.Path(__file__).parent.parent / 'results'
FULL = 'full'
RATES = 1e-3, 2e-3, 4e-3, 8e-3
_FINAL_RATE = 0.01  # of the tuned one


@dataclasses.dataclass(frozen=True)
class System:
  """What is compared: runs that differ in seed and length alone.

  Attributes:
    name: unique in the study; its learning rate is tuned once.
    fields: columns of its own.
    configure: updates -> Config; the runner sets data, seed and learning rates.
    lengths: updates of its runs.
    seeds: of its runs.
    data: folder below that of --data_dir that it trains on, if not that itself.
    tuned_as: the system whose rate it takes, where its own tuning would be the same.
  """

  name: str
  fields: dict
  configure: Callable[[int], Config]
  lengths: tuple[int, ...]
  seeds: tuple[int, ...] = (0, 1, 2)
  data: str = ''
  tuned_as: str = ''


@dataclasses.dataclass(frozen=True)
class Variant:
  """One size of a study: its systems, and how their learning rates are tuned.

  With 0 `tuning_updates` nothing is tuned: all systems train at the first of the rates.
  """

  systems: list[System]
  tuning_updates: int
  rates: tuple[float, ...] = RATES


@dataclasses.dataclass(frozen=True)
class Study:
  """A study.

  Attributes:
    name: of its file and of the folder of its rows.
    variants: name -> its size; 'full' and 'tiny'.
    key: row -> what the runs of a cell of the table have in common.
    table: {key: Cell} -> Markdown.
    figures: {key: Cell} -> {file name: Figure}.
    columns: config and folder of a trained run -> columns of the study's own.
  """

  name: str
  variants: dict[str, Callable[[], Variant]]
  key: Callable[[dict], tuple]
  table: Callable[[dict], str]
  figures: Callable[[dict], dict]
  columns: Callable = runs_lib.no_figures

  @property
  def module(self) -> str:
    return f'experiments.sweeps.{self.name}'

  def results(self) -> pathlib.Path:
    """The folder of its recorded rows."""
    return RESULTS / self.name

  def variant(self, name: str) -> Variant:
    """Raises InputError if there is none of that name."""
    if name not in self.variants:
      raise InputError(f'--variant={name}: the study {self.name} has {", ".join(self.variants)}.')
    return self.variants[name]()

  def report(self, folder) -> str:
    """Draws the pictures of a folder's rows beside them, and returns its table."""
    folder = pathlib.Path(folder)
    cells = cells_lib.read_cells(folder / 'runs.csv', self.key)
    if not cells:
      raise InputError(f'{folder / "runs.csv"}: holds no rows; --do=run makes them.')
    for name, figure in self.figures(cells).items():
      pictures.save(figure, folder / name)
    return self.table(cells)


# Runs


def tuning_runs(variant: Variant, data_dir: str, command: str = '') -> list[runs_lib.Run]:
  """One seed of each system at each rate."""
  if not variant.tuning_updates:
    return []
  return [_run(system, f'r{rate:g}_u{variant.tuning_updates}', variant.tuning_updates, rate, 0,
               data_dir, split='', command=command)
          for system in variant.systems if not system.tuned_as for rate in variant.rates]


def seed_runs(study: Study, variant: Variant, rates: dict, data_dir: str,
              command: str = '') -> list[runs_lib.Run]:
  """All runs: short ones first, then one seed of all systems before the next.

  Args:
    rates: system -> its tuned learning rate.
  """
  order = sorted(((length, seed, i) for i, system in enumerate(variant.systems)
                  for length in system.lengths for seed in system.seeds))
  return [_run(system, f'u{length}_s{seed}', length, rates[system.name], seed, data_dir,
               figures=study.columns, command=command)
          for length, seed, system in ((n, s, variant.systems[i]) for n, s, i in order)]


def _run(system: System, suffix: str, updates: int, rate: float, seed: int, data_dir: str,
         **more) -> runs_lib.Run:
  config = system.configure(updates)
  config.data.dir = str(pathlib.Path(data_dir) / system.data) if system.data else data_dir
  config.train.seed = seed
  config.optimizer.learning_rate = rate
  config.optimizer.final_learning_rate = _FINAL_RATE * rate
  if not more.get('split', 'test'):  # tuning: of interest is the NLL at the end alone
    config.evaluation.synthesize = config.evaluation.free_running = 0
    config.train.eval_every = updates
  return runs_lib.Run(f'{system.name}_{suffix}', {'system': system.name, **system.fields}, config,
                      **more)


def tuned_rates(path, variant: Variant) -> dict[str, float]:
  """System -> the rate of tuning.csv with the least valid NLL.

  Warns of a system that is best at an end of the rates: a better one may lie beyond.

  Raises:
    InputError: if all rates of a system diverged.
  """
  if not variant.tuning_updates:
    return {system.name: variant.rates[0] for system in variant.systems}
  rows, best = rows_lib.read_rows(path), {}
  for system in sorted(variant.systems, key=lambda system: bool(system.tuned_as)):
    if system.tuned_as:
      best[system.name] = best[system.tuned_as]
      continue
    tried = [(float(row['nll']), float(row['learning_rate'])) for row in rows
             if row['system'] == system.name and int(row['updates']) == variant.tuning_updates
             and float(row['learning_rate']) in variant.rates]
    nll, best[system.name] = min(tried)
    if not math.isfinite(nll):
      raise InputError(f'{path}: no learning rate of {system.name} gave a finite loss; give the '
                       'study smaller ones.')
    if len(variant.rates) > 2 and best[system.name] in (min(variant.rates), max(variant.rates)):
      warnings.warn(f'{path}: {system.name} is best at {best[system.name]:g}, an end of the rates '
                    'tried; a better one may lie beyond.', stacklevel=2)
  return best


def run(study: Study, variant: Variant, folder, workdir, data_dir: str, executor=None,
        command: str = '') -> None:
  """Tunes each system, then trains and evaluates its seeds; rows go to `folder`.

  Raises:
    InputError: if runs failed, or rows stand there that were trained at other rates.
    executors.Stopped: if a signal ended it.
  """
  folder, workdir = pathlib.Path(folder), pathlib.Path(workdir)
  runs_lib.execute(tuning_runs(variant, data_dir, command), folder / 'tuning.csv',
                   workdir / 'tuning', executor)
  rates = tuned_rates(folder / 'tuning.csv', variant)
  runs = seed_runs(study, variant, rates, data_dir, command)
  _check_rates(runs, folder / 'runs.csv')
  runs_lib.execute(runs, folder / 'runs.csv', workdir / 'runs', executor)


def _check_rates(runs, path) -> None:
  """Rows of one cell must not differ in more than their seed."""
  recorded = {row['name']: float(row['learning_rate']) for row in rows_lib.read_rows(path)}
  for wanted in runs:
    rate = wanted.config.optimizer.learning_rate
    if recorded.get(wanted.name, rate) != rate:
      raise InputError(f'{path}: {wanted.name} was trained at {recorded[wanted.name]:g}, but '
                       f'tuning.csv now says {rate:g}; remove its row and its folder to train '
                       'it anew.')


def tuning_table(path) -> str:
  """Markdown: valid NLL of each system at each rate, the best in bold."""
  rows = rows_lib.read_rows(path)
  rates = sorted({float(row['learning_rate']) for row in rows})
  nll = {(row['system'], int(row['updates']), float(row['learning_rate'])): float(row['nll'])
         for row in rows}
  lines = []
  for name, updates in sorted(dict.fromkeys(key[:2] for key in nll), key=lambda key: key[1]):
    best = min(nll.get((name, updates, rate), math.inf) for rate in rates)
    lines.append([name, updates, *(_tried(nll.get((name, updates, rate)), best)
                                   for rate in rates)])
  return cells_lib.markdown(['system', 'updates', *(f'{rate:g}' for rate in rates)], lines)


def _tried(nll: float | None, best: float) -> str:
  if nll is None:
    return ''
  if not math.isfinite(nll):
    return 'diverged'
  return f'**{nll:.3f}**' if nll == best else f'{nll:.3f}'


# Command line


def main(study: Study) -> None:
  """The program of a study."""
  flags.DEFINE_enum(
      'do', 'report', ['run', 'report'], 'Train missing runs, or make table and pictures.')
  flags.DEFINE_string('data_dir', '', 'Corpus with train, valid and test.')
  flags.DEFINE_string('workdir', f'runs/{study.name}', 'Folder of the runs.')
  flags.DEFINE_string('variant', FULL, f'Size of the study: {", ".join(study.variants)}.')
  flags.DEFINE_string('executor', 'process', 'Where runs train: process or ray[,…].')
  cli.run(functools.partial(_main, study))


def _main(study: Study) -> None:
  try:
    _do(study, flags.FLAGS)
  except executors.Stopped as stop:
    sys.exit(f'stopped {stop}; the same command goes on from there.')


def _do(study: Study, given) -> None:
  folder, variant = study.results(), study.variant(given.variant)
  if given.variant != FULL:
    folder = pathlib.Path(given.workdir) / 'results'
  if given.do == 'run':
    if not given.data_dir:
      raise InputError('--data_dir is not set; give a folder of recordings.')
    command = (f'python -m {study.module} --do=run '
               f'--data_dir={pathlib.Path(given.data_dir).resolve().name}')
    command += f' --variant={given.variant}' * (given.variant != FULL)
    run(study, variant, folder, given.workdir, given.data_dir,
        executors.create(given.executor), command)
  print(study.report(folder))
  rows = rows_lib.read_rows(folder / 'runs.csv')
  print(json.dumps({'study': study.name, 'rows': len(rows), 'results': str(folder)}), flush=True)
