"""The ablation of §4: lanes S and horizon F at one size, data and number of updates.

    python -m experiments.sweeps.subscale --do=run --data_dir=DIR
    python -m experiments.sweeps.subscale --do=report

All models code the residual of the prediction from the spectrogram. Not the whole grid:
every number of lanes at F = 8, and every horizon at 16 lanes; of the cells that decide
about the paper's claims there are three seeds. One lane is the plain model; `fused` draws
two samples a step from one state (§4.4), with F = 0 two neighbours, what others call
bunching. Folding with cross-fades (folding.py) samples the plain model.

A row has the held-out NLL with its interval and by lane, the free-running metrics, and the
speed of the scan sampler for one utterance: `samples_per_second` once all lanes run, and
`latency_seconds`, the audio whose mel must be known before its first sample comes.
"""

import functools
import json
import pathlib

from experiments.benchmarks import measure
from experiments.sweeps import cells as cells_lib, folding, runs, study
from wavernn_jax import config as config_lib, models
from wavernn_jax.evaluation import pictures
from wavernn_jax.sampling import scan
from wavernn_jax.training import checkpoints

PLAIN = 'wavernn', 1, 0
DECIDING = PLAIN, ('subscale', 16, 8), ('fused', 2, 2)  # kind, lanes, horizon
GRID = (
    *DECIDING, ('fused', 2, 0), ('subscale', 4, 8), ('subscale', 16, 0), ('subscale', 2, 8),
    ('subscale', 8, 8), ('subscale', 16, 64))
_TAPS_AHEAD = 112  # of lanes; 48 cost 0.011 nats more before any training


def configure(kind: str, lanes: int, horizon: int, updates: int) -> config_lib.Config:
  """A run of the ablation; everything but kind, lanes and horizon is the same in all.

  Crops of lanes, whose state takes a step every S samples, are twice as long and half as
  many.
  """
  crops = 2 if kind == 'subscale' else 4
  return config_lib.Config(
      model=config_lib.ModelConfig(kind=kind, lanes=lanes, horizon=horizon, units=128,
                                   projection=128, channels=64, prediction='spectral',
                                   taps_ahead=_TAPS_AHEAD),
      optimizer=config_lib.OptimizerConfig(warmup_steps=200),
      train=config_lib.TrainConfig(
          steps=updates, batch=crops, crop=7_680 // crops, burn_in=240,
          eval_every=max(1, updates // 2), save_every=max(1, updates // 20), log_every=100),
      evaluation=config_lib.EvaluationConfig(synthesize=0))


def configure_tiny(kind: str, lanes: int, horizon: int, updates: int) -> config_lib.Config:
  """A run of seconds."""
  result = configure(kind, lanes, horizon, updates)
  model, train = result.model, result.train
  model.units = model.projection = 16
  model.channels, model.layers, model.taps, model.taps_ahead = 8, 1, 16, 8
  train.batch, train.crop, train.burn_in = 2, 240, 40
  train.eval_every = train.save_every = updates
  result.evaluation.max_valid_utterances = result.evaluation.free_running = 1
  return result


def _system(configuration, cell: tuple, updates: int, seeds) -> study.System:
  """A cell; one that does not decide takes the rate of that of its kind which does."""
  kind, lanes, horizon = cell
  like = next(c for c in DECIDING if c[0] == kind)
  return study.System(
      _name(cell), {'kind': kind, 'lanes': lanes, 'horizon': horizon},
      functools.partial(configuration, kind, lanes, horizon), (updates,), seeds,
      tuned_as='' if cell == like else _name(like))


def _name(cell: tuple) -> str:
  return '{}{}x{}'.format(*cell)


def full() -> study.Variant:
  return study.Variant(
      [_system(configure, cell, 3_000, (0, 1, 2) if cell in DECIDING else (0,))
       for cell in GRID], tuning_updates=1_500)


def tiny() -> study.Variant:
  grid = PLAIN, ('subscale', 16, 8)
  return study.Variant([_system(configure_tiny, cell, 4, (0,)) for cell in grid],
                       tuning_updates=4, rates=(4e-3,))


def columns(config: config_lib.Config, folder: pathlib.Path) -> dict:
  """Columns of this study beside those of every one."""
  sampler = scan.ScanEngine(models.build(config), checkpoints.load(folder).params,
                         block_frames=config.evaluation.block_frames)
  seconds = measure.interleaved({'block': measure.next_block(sampler, 1)}, 5)['block']
  samples = config.evaluation.block_frames * config.mel.hop
  by_lane = json.loads((folder / 'evaluation_test.json').read_text()).get('nll_lanes', ())
  return {'nll_lanes': ' '.join(f'{n:.4f}' for n in by_lane),
          'samples_per_second': samples / seconds,
          'latency_seconds': sampler.latency,
          **runs.free_running(config, folder), **folding.columns(config, folder)}


def key(row: dict) -> tuple:
  """(kind, lanes, horizon, updates) of a run."""
  return row['kind'], int(row['lanes']), int(row['horizon']), int(row['updates'])


def plain_of(cells: dict, name: tuple):
  """The plain model after as many updates, or None if it has not run yet."""
  return cells.get((*PLAIN, name[3]))


def table(cells: dict) -> str:
  """Every run with its difference to the plain model of its training length."""
  rows = []
  for name in sorted(cells, key=lambda n: (n[3], n[0] == 'fused', *n[1:3])):
    kind, lanes, horizon, updates = name
    cell = cells[name]
    rows.append([f'{updates:,}', kind, lanes, horizon, f'{int(cell.row["parameters"]):,}',
                 *(cells_lib.mean(cell, f'nll{part}', 3) for part in ('_coarse', '_fine', '')),
                 *cells_lib.gap_columns(cell, plain_of(cells, name)),
                 f'{_speed(cell):,.0f}', cells_lib.mean(cell, 'latency_seconds', 2),
                 *(cells_lib.mean(cell, name, 2) for name in (
                     'voicing_f1', 'periodicity', 'log_mel_l1')), *cells_lib.cost_columns(cell)])
  lanes = cells_lib.markdown(
      ['updates', 'model', 'lanes', 'F', 'parameters', 'coarse', 'fine', 'NLL (nats/sample)',
       'difference to plain', *cells_lib.GAP_HEADER, 'samples/s', 'latency (s)', 'voicing F1',
       'periodicity', 'log-mel L1', *cells_lib.COST_HEADER], rows)
  folded = folding.table(cells)
  return f'{lanes}\n\nThe plain model, folded with cross-fades:\n\n{folded}' if folded else lanes


# Pictures


def figures(cells: dict) -> dict:
  return {'nll.png': nll_figure(cells), 'lanes.png': lane_figure(cells)}


def nll_figure(cells: dict):
  """NLL against lanes at the horizon most runs have, against horizon, and against speed.

  A line is a training length.
  """
  result = pictures.new_figure(13, 4)
  panels = result.subplots(1, 3, sharey=True)
  for color, updates in enumerate(sorted({name[3] for name in cells})):
    _draw_length(panels, cells, updates, f'C{color}')
  lanes, horizon, speed = panels
  lanes.set_xscale('log', base=2)
  lanes.set(xlabel='lanes S', ylabel='held-out NLL (nats/sample)')
  horizon.set(xlabel='horizon F (positions)')
  speed.set_xscale('log')
  speed.set(xlabel='samples/s of one utterance, scan sampler')
  for panel in panels:
    panel.grid(alpha=0.3)
    panel.legend(fontsize='x-small')
  return result


def _draw_length(panels, cells: dict, updates: int, color: str) -> None:
  """The points of the runs of one training length."""
  lanes, horizon, speed = panels
  folded = [name for name in cells if name[0] == 'subscale']
  horizons = [name[2] for name in folded]
  usual = max(set(horizons), key=horizons.count, default=0)
  most = max((name[1] for name in folded), default=1)

  def draw(panel, chosen, place, style, label):
    names = sorted((n for n in cells if n[3] == updates and chosen(n)), key=place)
    _points(panel, cells, names, [place(n) for n in names], style, color,
            f'{label}, {updates:,} updates')

  draw(lanes, lambda n: n[:3] == PLAIN or n[0] == 'subscale' and n[2] == usual,
       lambda n: n[1], 'o-', f'F = {usual}')
  draw(lanes, lambda n: n[0] == 'fused', lambda n: n[1], 's', 'fused')
  draw(horizon, lambda n: n[0] == 'subscale' and n[1] == most, lambda n: n[2], 'o-',
       f'{most} lanes')
  for kind, style in (('wavernn', 'D'), ('subscale', 'o'), ('fused', 's')):
    draw(speed, lambda n, kind=kind: n[0] == kind, lambda n: _speed(cells[n]), style, kind)


def _speed(cell) -> float:
  return float(cell.row['samples_per_second'])


def _points(panel, cells, names, places, style, color, label):
  """NLLs, with the intervals of their differences to the plain model as bars."""
  if not names:
    return
  bars = [cells_lib.interval_bar(cells[n], plain_of(cells, n)) for n in names]
  panel.errorbar(places, [cells[n].nll for n in names], yerr=list(zip(*bars, strict=True)),
                 fmt=style, color=color, capsize=3, label=label)


def lane_figure(cells: dict):
  """NLL of each lane, a line a run, less the plain model's mean."""
  result = pictures.new_figure(7, 4)
  panel = result.subplots()
  for name, cell in sorted(cells.items(), key=lambda item: (item[0][3], *item[0])):
    kind, lanes, horizon, updates = name
    nll, plain = [float(n) for n in cell.row['nll_lanes'].split()], plain_of(cells, name)
    if nll and plain:
      panel.plot([s / lanes for s in range(lanes)], [n - plain.nll for n in nll], '.-',
                 label=f'{kind}, {lanes} lanes, F = {horizon}, {updates:,} updates')
  panel.axhline(0, color='black', label='plain')
  panel.set(xlabel='lane s / S', ylabel='held-out NLL less plain (nats/sample)')
  panel.grid(alpha=0.3)
  panel.legend(fontsize='x-small')
  return result


STUDY = study.Study('subscale', {study.FULL: full, 'tiny': tiny}, key, table, figures, columns)

if __name__ == '__main__':
  study.main(STUDY)
