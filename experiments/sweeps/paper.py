"""The systems of the paper in one table: dense, sparse, subscale, fused, WaveNet.

    python -m experiments.report --run=tiny|small|full --data_dir=DIR --workdir=RUNS

makes the runs (it goes on where it was stopped) and writes table, pictures and the page to
listen to; `python -m experiments.sweeps.paper` is this study alone. Systems are those of
experiments/configs at the variant of the size: `tiny` takes minutes on two cores and shows
that all works, `small` is for a night of a CPU, `full` has the paper's sizes and needs an
accelerator. Every one codes the residual of the prediction from the spectrogram but `dense
none`, the paper's form.
"""

import functools
import hashlib
import json
import math
import pathlib
import warnings

import jax

from experiments import costs
from experiments.benchmarks import measure
from experiments.configs import dense, fused, sparse, subscale, wavenet
from experiments.sweeps import cells as cells_lib, runs, study
from wavernn_jax import config as config_lib, rules, sampling
from wavernn_jax.evaluation import pictures
from wavernn_jax.training import checkpoints

REFERENCE = 'dense'
ENGINES = 'scan', 'cpu', 'pallas'
_PURPOSES = {'cpu': 'cpu', 'pallas': 'persistent'}  # of rules.py
_FILES = {'dense': dense, 'sparse': sparse, 'subscale': subscale, 'fused': fused,
          'wavenet': wavenet}
_LARGEST = {'subscale': 'x16', 'fused': 'x2'}  # variants of the paper's size
_SAME = {'corpus': 'recordings', 'mel': 'mel convention'}  # columns that rows of a table share


def configure(system: str, size: str, updates: int) -> config_lib.Config:
  """A run of a system; `system` is a file of experiments/configs and, perhaps, 'none'."""
  name, _, prediction = system.partition(' ')
  variant = _LARGEST.get(name, 'paper') if size == 'full' else size
  config = _FILES[name].get_config(variant)
  config.model.prediction = prediction or 'spectral'
  scale, pruning = updates / config.train.steps, config.pruning
  if name == 'sparse':  # as many samples an update as the others
    config.train = dense.get_config(variant).train
  train = config.train
  pruning.start, pruning.steps = round(pruning.start * scale), max(1, int(pruning.steps * scale))
  train.steps = updates
  train.eval_every = max(1, updates // 3)
  train.save_every = max(1, updates // 20)
  config.evaluation.synthesize = 0
  if size == 'tiny':
    _shrink(config)
  return config


def _shrink(config: config_lib.Config) -> None:
  """Seconds a run; wide enough for the CPU engine."""
  config.model.taps, config.model.taps_ahead = 32, 16
  if config.model.kind == 'wavernn':
    config.model.units, config.model.projection, config.model.channels = 32, 16, 16
  config.train.eval_every = config.train.save_every = config.train.steps
  config.evaluation.max_valid_utterances = config.evaluation.free_running = 1
  config.evaluation.bootstrap = 200


def variant(size: str, updates: int, seeds, tuning_updates: int, rates=study.RATES,
            systems=(*_FILES, 'dense none')) -> study.Variant:
  """The systems at a size."""
  return study.Variant([
      study.System(name.replace(' ', '_'), {'size': size, 'title': name},
                   functools.partial(configure, name, size), (updates,), tuple(seeds))
      for name in systems], tuning_updates, rates)


def engines() -> list[str]:
  """The engines that this machine has."""
  return [name for name in ENGINES if name != 'pallas' or jax.default_backend() != 'cpu']


def columns(config: config_lib.Config, folder: pathlib.Path) -> dict:
  """Sizes, corpus, latency, free-running measures, and the speed on every engine."""
  voice = checkpoints.load(folder)
  samplers, found = {}, {}
  for name in engines():
    sampler, why = _open(voice, name)
    samplers |= {name: sampler} if sampler else {}
    found[f'{name}_missing'] = why
  seconds = measure.interleaved(
      {name: measure.next_block(sampler, 1) for name, sampler in samplers.items()}, 5)
  samples = config.evaluation.block_frames * config.mel.hop
  for name, taken in seconds.items():
    found[f'{name}_samples_per_second'] = samples / taken
    found[f'{name}_realtime_factor'] = samples / taken / config.mel.sample_rate
  corpus = json.loads((folder / 'run.json').read_text())['corpus']
  return {'sequential': str(costs.sequence(config)),
          'multiplications': costs.multiplications(config),
          'latency_seconds': samplers['scan'].latency, 'corpus': corpus,
          'mel': mel_digest(config.mel), **found, **runs.free_running(config, folder)}


def _open(voice, engine: str):
  """The engine of a voice, or None and why there is none."""
  if engine in _PURPOSES and (reasons := rules.unsuited(voice.config, _PURPOSES[engine])):
    return None, reasons[0]
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # that scan takes the place of a kernel
    sampler = sampling.open(voice, engine)
  return (sampler, '') if sampler.name == engine else (None, 'its kernel cannot be used here')


def mel_digest(mel: config_lib.MelConfig) -> str:
  """The name of a convention and a digest of its fields."""
  fields = json.dumps(config_lib.to_dict(mel), sort_keys=True).encode()
  return f'{mel.name} {hashlib.blake2b(fields, digest_size=4).hexdigest()}'


def key(row: dict) -> tuple:
  """(size, updates, system) of a run."""
  return row['size'], int(row['updates']), row['title']


def comparable(cells: dict) -> tuple[dict, list[str]]:
  """The cells of the reference's corpus and mel convention, and a message for each other one."""
  first = next((c for name, c in cells.items() if name[2] == REFERENCE),
               next(iter(cells.values()), None))
  kept, problems = {}, []
  for name, cell in cells.items():
    other = [f'other {what} ({row[column]} in place of {first.row[column]})'
             for column, what in _SAME.items() for row in cell.rows
             if row[column] != first.row[column]]
    if other:
      problems.append(f'{name[2]}, {name[1]:,} updates: left out: has {other[0]}.')
    else:
      kept[name] = cell
  return kept, problems


HEADER = ['system', 'updates', 'parameters', 'N', 'coarse', 'fine', 'NLL (nats/sample)',
          'difference to dense', *cells_lib.GAP_HEADER, 'voicing F1', 'periodicity', 'latency (s)']


def system_rows(cells: dict) -> tuple[list[str], list[list]]:
  """Header and a row a system: likelihoods with intervals over utterances, speeds, voice."""
  names = [e for e in ENGINES if any(_has(c, e) for c in cells.values())]
  rows = []
  for (size, updates, title), cell in cells.items():
    row = cell.row
    rows.append([
        title, f'{updates:,}', f'{int(row["parameters"]):,}', row['sequential'],
        *(_with_interval(cells_lib.mean_interval(nats, cell))
          for nats in (cell.coarse, cell.nats - cell.coarse, cell.nats)),
        *cells_lib.gap_columns(cell, cells.get((size, updates, REFERENCE))),
        *(cells_lib.mean(cell, name, 2) or 'not voiced' for name in ('voicing_f1', 'periodicity')),
        cells_lib.mean(cell, 'latency_seconds', 2), *(_speed(cell, e) for e in names)])
  return [*HEADER, *(f'{e}: samples/s (times real time)' for e in names)], rows


def _has(cell, engine: str) -> bool:
  return any(row.get(f'{engine}_samples_per_second') for row in cell.rows)


def _speed(cell, engine: str) -> str:
  if not _has(cell, engine):
    return 'does not run it'
  return (f'{float(cells_lib.mean(cell, f"{engine}_samples_per_second", 0)):,.0f} '
          f'({cells_lib.mean(cell, f"{engine}_realtime_factor", 2)})')


def gaps(cells: dict) -> list[str]:
  """Why an engine does not run a system, a sentence each."""
  return [f'{name[2]} has no figure of {engine}: {cell.row[f"{engine}_missing"].strip(".")}.'
          for name, cell in cells.items() for engine in ENGINES
          if cell.row.get(f'{engine}_missing')]


def _with_interval(values: tuple[float, float, float]) -> str:
  if math.isnan(values[1]):
    return f'{values[0]:.3f}'
  return '{:.3f} [{:.3f}, {:.3f}]'.format(*values)


SOURCE_HEADER = ['system', 'seeds', *cells_lib.COST_HEADER, 'command', 'commit', 'hardware', 'date']


def source_rows(cells: dict) -> list[list]:
  """Where the figures of each system come from."""
  return [[name[2], len(cell.rows), *cells_lib.cost_columns(cell),
           *(', '.join(sorted({row[column] for row in cell.rows}))
             for column in ('command', 'commit', 'hardware', 'date'))]
          for name, cell in cells.items()]


def table(cells: dict) -> str:
  """Both tables, and what was left out of them."""
  kept, problems = comparable(cells)
  header, rows = system_rows(kept)
  return '\n'.join([cells_lib.markdown(header, rows),
                    cells_lib.markdown(SOURCE_HEADER, source_rows(kept)),
                    *(f'{text}\n' for text in (*gaps(kept), *problems))])


def figures(cells: dict) -> dict:
  """NLL of each system, and against parameters and the speed of the fastest engine."""
  kept, _ = comparable(cells)
  result = pictures.new_figure(13, 4)
  panels = result.subplots(1, 3, sharey=True)
  for i, (name, cell) in enumerate(kept.items()):
    value, low, high = cells_lib.mean_interval(cell.nats, cell)
    bar = [[max(0, value - low)], [max(0, high - value)]] if low == low else None
    speed = max(float(cells_lib.mean(cell, f'{e}_samples_per_second', 1))
                for e in ENGINES if _has(cell, e))
    for panel, place in zip(panels, (i, int(cell.row['parameters']), speed), strict=True):
      panel.errorbar([place], [value], yerr=bar, fmt='o', capsize=3, label=name[2])
  panels[0].set(xticks=[], ylabel='held-out NLL (nats/sample)')
  panels[1].set(xlabel='parameters that are not pruned', xscale='log')
  panels[2].set(xlabel='samples/s of one utterance, fastest engine', xscale='log')
  for panel in panels:
    panel.grid(alpha=0.3)
  panels[0].legend(fontsize='x-small')
  return {'systems.png': result}


STUDY = study.Study('paper', {
    study.FULL: lambda: variant('full', 200_000, (0, 1, 2), 20_000),
    'small': lambda: variant('small', 3_000, (0, 1, 2), 1_500),
    'tiny': lambda: variant('tiny', 20, (0,), 0, (3e-3,))}, key, table, figures, columns)

if __name__ == '__main__':
  study.main(STUDY)
