"""Runs of a study -> rows of a CSV: finished rows are skipped, stopped runs go on."""

from collections.abc import Callable
import dataclasses
import functools
import json
import pathlib

from experiments.benchmarks import measure
from experiments.sweeps import rows as rows_lib, spent
from wavernn_jax import commands, executors, files, pruning
from wavernn_jax.config import Config
from wavernn_jax.errors import InputError
from wavernn_jax.training import checkpoints
from wavernn_jax.training.run import Diverged


def no_figures(config: Config, folder: pathlib.Path) -> dict:
  """The further columns of a study that has none."""
  del config, folder
  return {}


def free_running(config: Config, folder: pathlib.Path) -> dict:
  """The free-running measures of a run's evaluation on test."""
  del config
  return json.loads((folder / 'evaluation_test.json').read_text()).get('free_running', {})


@dataclasses.dataclass(frozen=True)
class Run:
  """One row to be.

  Attributes:
    name: unique in its CSV; the folder of the run.
    fields: columns of its own, which distinguish it.
    config: how it is trained.
    split: of the likelihoods; '' for those that training itself ends with, of valid.
    figures: config and folder of the trained run -> further columns.
    command: that makes the row.
  """

  name: str
  fields: dict
  config: Config
  split: str = 'test'
  figures: Callable = no_figures
  command: str = ''


def execute(runs, path, workdir, executor=None) -> None:
  """Trains and evaluates every run that has no row yet, and appends its row.

  The likelihood of each held-out utterance goes to a second CSV beside the
  first, `utterances.csv`: runs are compared utterance by utterance. Workers
  train; only this process writes the CSVs.

  Args:
    runs: of the study, in order of importance.
    path: the CSV.
    workdir: holds a folder for each run; a run that was stopped goes on there.
    executor: of wavernn_jax.executors; by default this process.

  Raises:
    InputError: if another process executes a study into the CSV; and at the end,
      naming the runs that failed.
    executors.Stopped: if a signal ended a run early.
  """
  path, problems, runs = pathlib.Path(path), [], list(runs)
  path.parent.mkdir(parents=True, exist_ok=True)
  job = functools.partial(finish, workdir=workdir)
  with files.lock(path.with_name(f'.{path.name}.lock'), f'{path}: another process adds rows'):
    finished = {row['name'] for row in rows_lib.read_rows(path)}
    missing = [run for run in runs if run.name not in finished]
    for outcome in (executor or executors.InProcess()).run(job, missing):
      if outcome.problem:
        problems.append(f'{outcome.job.name}: {outcome.problem}')
        continue
      _record(path, outcome.job.name, *outcome.value)
      finished.add(outcome.job.name)
  if problems:
    raise InputError(f'{len(problems)} runs failed; the same command tries them again:\n'
                     + '\n'.join(problems))
  if any(run.name not in finished for run in runs):
    raise executors.Stopped('by a signal')


def _record(path: pathlib.Path, name: str, row: dict, utterances: list[dict]) -> None:
  if utterances:
    rows_lib.replace_rows(path.with_name('utterances.csv'), name, utterances)
  # The row comes last: it is what says that the run is finished.
  rows_lib.replace_rows(path, name, [row])


def finish(run: Run, workdir) -> tuple[dict, list[dict]]:
  """Trains a run to its end, in one go or on from its checkpoint, and evaluates it.

  Returns:
    Its row, and those of its utterances.
  """
  folder = pathlib.Path(workdir) / run.name
  trained = _train(run.config, folder)
  if 'diverged' in trained:
    return _row(run, folder, trained), []
  if trained['step'] < run.config.train.steps:
    raise executors.Stopped(f'at step {trained["step"]}, by a signal')
  if not run.split:
    nll = {name.removeprefix('valid_'): trained[name]
           for name in ('valid_nll', 'valid_nll_coarse', 'valid_nll_fine')}
    return _row(run, folder, nll), []
  result = commands.evaluate(str(folder), run.split)
  low, high = result['nll_interval'] or (None, None)  # none of a single utterance
  columns = {**_parameters(folder), **{name: result[name] for name in
                                       ('nll', 'nll_coarse', 'nll_fine')},
             'nll_low': low, 'nll_high': high, **run.figures(run.config, folder)}
  utterances = json.loads((folder / f'evaluation_{run.split}.json').read_text())['by_utterance']
  return _row(run, folder, columns), [
      {'name': run.name, 'utterance': name, **values} for name, values in utterances.items()]


def _train(config: Config, folder: pathlib.Path) -> dict:
  """What training returns; that its loss was not finite is a result too."""
  with spent.Clock(folder):
    try:
      return commands.train(config, str(folder))
    except Diverged:
      return {'diverged': True, 'nll': float('inf')}


def _parameters(folder: pathlib.Path) -> dict:
  voice = checkpoints.load(folder)
  return {'parameters': pruning.count_parameters(voice.params, voice.masks)}


def _row(run: Run, folder: pathlib.Path, columns: dict) -> dict:
  """All columns; `cpu_hours` are those of training and the evaluations within it."""
  config, taken = run.config, spent.read(folder)
  train, model = config.train, config.model
  figures = {name: value for name, value in columns.items() if name != 'diverged'}
  return {'name': run.name, **run.fields, 'prediction': model.prediction, 'units': model.units,
          'projection': model.projection, 'seed': train.seed, 'batch': train.batch,
          'crop': train.crop, 'burn_in': train.burn_in,
          'learning_rate': config.optimizer.learning_rate, **figures, 'updates': train.steps,
          'samples_seen': train.steps * train.batch * train.crop,
          'cpu_hours': round(taken['cpu_seconds'] / 3_600, 4),
          'seconds': round(taken['seconds']), 'command': run.command, **measure.source()}
