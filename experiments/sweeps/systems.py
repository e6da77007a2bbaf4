"""WaveRNN against WaveNet (§2, §5): likelihood at equal samples and CPU time, and speed.

    python -m experiments.sweeps.systems --do=run --data_dir=DIR
    python -m experiments.sweeps.systems --do=report

All take about as many multiplications a sample, and see 7,680 samples an update, of which
6,720 carry loss: WaveRNN four crops of 1,920, WaveNet, a sample of which depends on the
3,070 before it, one of 7,680. `mixture` is WaveRNN with one mixture of logistics, which
WaveNet has, in place of the dual softmax; it is wider, since it has one output layer less.

When WaveRNN and WaveNet have both run, the same command once more trains the faster one for
as long as the slower one took: the rows at equal CPU time. `samples_per_second` is that of
the scan sampler for one utterance, and `speed` how many times that of the dense WaveRNN of
the same form, timed in turns with it.
"""

import dataclasses
import functools
import pathlib

import numpy as np

from experiments import costs
from experiments.benchmarks import measure
from experiments.sweeps import cells as cells_lib, rows as rows_lib, runs, study
from wavernn_jax import config as config_lib, models
from wavernn_jax.evaluation import pictures
from wavernn_jax.sampling import scan
from wavernn_jax.training import checkpoints

UPDATES, SEEDS = 3_000, (0, 1, 2)
SYSTEMS = (  # model, prediction
    ('wavernn', 'spectral'), ('wavenet', 'spectral'), ('mixture', 'spectral'),
    ('wavernn', 'none'), ('mixture', 'none'))
PAIR = 'wavernn_spectral', 'wavenet_spectral'  # whose likelihood decides the paper's claim
_MODELS = {
    'wavernn': {'units': 128, 'projection': 128},
    'mixture': {'units': 184, 'projection': 128, 'output': 'mixture'},
    'wavenet': {'kind': 'wavenet', 'units': 24, 'residual': 24, 'skip': 48, 'projection': 128}}
_TINY = {'units': 16, 'projection': 16, 'channels': 8, 'layers': 1, 'taps': 8, 'mixtures': 3}


def configure(model: str, prediction: str, updates: int) -> config_lib.Config:
  """A run of the full study."""
  batch, burn_in = (1, 960) if model == 'wavenet' else (4, 240)
  return config_lib.Config(
      model=config_lib.ModelConfig(channels=64, prediction=prediction, **_MODELS[model]),
      optimizer=config_lib.OptimizerConfig(warmup_steps=200),
      train=config_lib.TrainConfig(
          steps=updates, batch=batch, crop=7_680 // batch, burn_in=burn_in,
          eval_every=max(1, updates // 2), save_every=max(1, updates // 20), log_every=100),
      evaluation=config_lib.EvaluationConfig(synthesize=0))


def configure_tiny(model: str, prediction: str, updates: int) -> config_lib.Config:
  """A run of seconds."""
  result = configure(model, prediction, updates)
  result.model = dataclasses.replace(result.model, **_TINY)
  if model == 'wavenet':
    result.model = dataclasses.replace(result.model, units=8, blocks=4, cycles=2, residual=8,
                                       skip=8)
  result.train.crop = 240 // result.train.batch
  result.train.burn_in = 80 // result.train.batch
  result.train.eval_every = result.train.save_every = updates
  result.optimizer.warmup_steps = 1
  result.evaluation.max_valid_utterances = result.evaluation.free_running = 1
  return result


def _systems(configuration, updates: int, seeds, rows) -> list[study.System]:
  longer = equal_time(rows, updates)
  return [study.System(
      f'{model}_{prediction}', {'model': model}, functools.partial(
          configuration, model, prediction),
      (updates, *longer.get(f'{model}_{prediction}', ())), seeds)
          for model, prediction in SYSTEMS]


def equal_time(rows: list[dict], updates: int) -> dict[str, tuple[int]]:
  """The faster of `PAIR` -> the updates that it makes in the CPU time of the slower one.

  Empty until both have a run. Once a run of that length is there, more runs of others do
  not change it.
  """
  hours = {}
  for name in PAIR:
    own = [row for row in rows if row['system'] == name]
    if others := {int(row['updates']) for row in own} - {updates}:
      return {name: tuple(sorted(others))}
    hours[name] = [float(row['cpu_hours']) for row in own if row.get('cpu_hours')]
  if not all(hours.values()):
    return {}
  fast, slow = sorted(PAIR, key=lambda name: np.mean(hours[name]))
  ratio = np.mean(hours[slow]) / max(np.mean(hours[fast]), 1e-9)
  longest = round(updates * ratio / 100) * 100
  return {fast: (longest,)} if longest > updates else {}


def full() -> study.Variant:
  rows = rows_lib.read_rows(study.RESULTS / 'systems' / 'runs.csv')
  return study.Variant(_systems(configure, UPDATES, SEEDS, rows), tuning_updates=1_500)


def tiny() -> study.Variant:
  return study.Variant(_systems(configure_tiny, 4, (0,), []), tuning_updates=4, rates=(4e-3,))


def columns(config: config_lib.Config, folder: pathlib.Path) -> dict:
  """Sizes, free-running measures, and speed in turns with the dense WaveRNN's."""
  plain = configure('wavernn', config.model.prediction, 1)
  samplers = {'own': scan.ScanEngine(models.build(config), checkpoints.load(folder).params),
              'wavernn': scan.ScanEngine(models.build(plain), models.build(plain).init(0))}
  seconds = measure.interleaved(
      {name: measure.next_block(sampler, 1) for name, sampler in samplers.items()}, 5)
  samples = samplers['own'].block_frames * config.mel.hop
  return {'multiplications': costs.multiplications(config),
          'sequential': str(costs.sequence(config)),
          'samples_per_second': samples / seconds['own'],
          'speed': seconds['wavernn'] / seconds['own'], **runs.free_running(config, folder)}


def key(row: dict) -> tuple:
  """(prediction, model, updates) of a run."""
  return row['prediction'], row['model'], int(row['updates'])


def reference_of(cells: dict, name: tuple):
  """What a cell is compared with: WaveNet at as many samples, or at as much CPU time.

  The longer run of one is compared with the shorter one of the other.
  """
  least = min(updates for _, _, updates in cells)
  longer = name[2] > least and name[1] == 'wavenet'
  return cells.get(('spectral', 'wavernn' if longer else 'wavenet', least))


def table(cells: dict) -> str:
  """Every system, and its difference to WaveNet."""
  rows = []
  for name in sorted(cells, key=lambda n: (n[0] != 'spectral', n[1] == 'mixture', *n[1:])):
    (prediction, model, updates), cell = name, cells[name]
    row = cell.row
    rows.append([
        model, prediction, f'{updates:,}', f'{int(row["parameters"]):,}',
        f'{int(row["multiplications"]):,}', row['sequential'],
        *(cells_lib.mean(cell, f'nll{part}', 3) for part in ('_coarse', '_fine')),
        ', '.join(f'{n:.3f}' for n in cell.nll_seeds),
        *cells_lib.gap_columns(cell, reference_of(cells, name)),
        f'{float(cells_lib.mean(cell, "samples_per_second", 0)):,.0f}',
        cells_lib.mean(cell, 'speed', 2),
        *(cells_lib.mean(cell, name, 2) for name in ('voicing_f1', 'periodicity')),
        *cells_lib.cost_columns(cell)])
  return cells_lib.markdown(
      ['system', 'prediction', 'updates', 'parameters', 'multiplications', 'N', 'coarse', 'fine',
       'NLL (nats/sample) of each seed', 'difference to WaveNet', *cells_lib.GAP_HEADER,
       'samples/s', 'times WaveRNN', 'voicing F1', 'periodicity', *cells_lib.COST_HEADER], rows)


def figures(cells: dict) -> dict:
  """NLL against samples seen, CPU time and samples/s; intervals are those to WaveNet."""
  result = pictures.new_figure(13, 4)
  panels = result.subplots(1, 3, sharey=True)
  places = (lambda cell: int(cell.row['samples_seen']) / 1e6,
            lambda cell: float(cells_lib.mean(cell, 'cpu_hours', 4) or 'nan'),
            lambda cell: float(cells_lib.mean(cell, 'samples_per_second', 1)))
  for panel, place in zip(panels, places, strict=True):
    for name, cell in sorted(cells.items()):
      bar = cells_lib.interval_bar(cell, reference_of(cells, name))
      panel.errorbar([place(cell)], [cell.nll], yerr=[[bar[0]], [bar[1]]], fmt='o', capsize=3,
                     label=f'{name[1]}, {name[0]}')
    panel.grid(alpha=0.3)
  panels[0].set(xlabel='samples seen (M)', ylabel='held-out NLL (nats/sample)')
  panels[1].set(xlabel='CPU-hours of training')
  panels[2].set(xlabel='samples/s of one utterance, scan sampler', xscale='log')
  panels[2].legend(fontsize='x-small')
  return {'nll.png': result}


STUDY = study.Study('systems', {study.FULL: full, 'tiny': tiny}, key, table, figures, columns)

if __name__ == '__main__':
  study.main(STUDY)
