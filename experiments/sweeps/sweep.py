"""Runs of a study -> rows of a CSV: finished rows are skipped, stopped runs go on."""

import csv
import dataclasses
import functools
import io
import json
import pathlib
import time

from experiments.benchmarks import measure
from wavernn_jax import commands, executors, files, pruning
from wavernn_jax.config import Config
from wavernn_jax.errors import InputError
from wavernn_jax.training import checkpoints


@dataclasses.dataclass
class Run:
  """One row to be: what distinguishes it, and how it is trained."""

  name: str  # unique in the study; the folder of the run
  fields: dict  # columns of its own
  config: Config


def read_rows(path) -> list[dict]:
  """Rows of a CSV as dicts of strings; none if there is no such file."""
  path = pathlib.Path(path)
  return list(csv.DictReader(path.read_text().splitlines())) if path.exists() else []


def replace_rows(path, name: str, rows: list[dict]) -> None:
  """Puts a run's rows in place of any it had; the file is replaced whole.

  A kill never leaves half a row. A column that is new is empty in older rows.
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


def no_figures(config: Config, folder, split: str) -> dict:
  """The further columns of a study that has none."""
  del config, folder, split
  return {}


def execute(runs, path, workdir, split: str = 'test', executor=None,
            figures=no_figures) -> None:
  """Trains and evaluates every run that has no row yet, and appends its row.

  The likelihood of each held-out utterance goes to a second CSV beside the
  first, `utterances.csv`: runs are compared utterance by utterance. Workers
  train; only this process writes the CSVs.

  Args:
    runs: of the study, in order of importance.
    path: the CSV.
    workdir: holds a folder for each run; a run that was stopped goes on there.
    split: held-out split of the figures.
    executor: of wavernn_jax.executors; by default this process.
    figures: columns of the study's own, from config, folder and split of a run
      that is trained and evaluated.

  Raises:
    InputError: if another process executes a study into the CSV; and at the end,
      naming the runs that failed.
  """
  path, problems = pathlib.Path(path), []
  path.parent.mkdir(parents=True, exist_ok=True)
  job = functools.partial(finish, workdir=workdir, split=split, figures=figures)
  with files.lock(path.with_name(f'.{path.name}.lock'), f'{path}: another process adds rows'):
    finished = {row['name'] for row in read_rows(path)}
    for outcome in (executor or executors.InProcess()).run(
        job, [run for run in runs if run.name not in finished]):
      if outcome.problem:
        problems.append(f'{outcome.job.name}: {outcome.problem}')
        continue
      row, utterances = outcome.value
      # The row comes last: it is what says that the run is finished.
      replace_rows(path.with_name('utterances.csv'), outcome.job.name, utterances)
      replace_rows(path, outcome.job.name, [row])
  if problems:
    raise InputError(f'{len(problems)} runs failed; the same command tries them again:\n'
                     + '\n'.join(problems))


def finish(run: Run, workdir, split: str, figures=no_figures) -> tuple[dict, list[dict]]:
  """Trains a run to its end, in one go or on from its checkpoint, and evaluates it.

  Returns:
    Its row, and those of its utterances.
  """
  folder = pathlib.Path(workdir) / run.name
  start = time.perf_counter()
  step = commands.train(run.config, str(folder))['step']
  if step < run.config.train.steps:
    raise executors.Stopped(f'at step {step}, by a signal')
  seconds = time.perf_counter() - start
  columns = _figures(run.config, folder, split) | figures(run.config, folder, split)
  utterances = json.loads((folder / f'evaluation_{split}.json').read_text())['by_utterance']
  row = {'name': run.name, **run.fields, **columns, 'updates': step,
         'seconds': round(seconds), **measure.source()}
  return row, [{'name': run.name, 'utterance': name, **values}
               for name, values in utterances.items()]


def _figures(config: Config, folder, split: str) -> dict:
  result = commands.evaluate(str(folder), split)
  low, high = result['nll_interval'] or (None, None)  # none of a single utterance
  voice = checkpoints.load(folder)
  return {'parameters': pruning.count_parameters(voice.params, voice.masks),
          'units': config.model.units, 'projection': config.model.projection,
          'seed': config.train.seed, 'batch': config.train.batch, 'crop': config.train.crop,
          'nll': result['nll'], 'nll_coarse': result['nll_coarse'],
          'nll_fine': result['nll_fine'], 'nll_low': low, 'nll_high': high}
