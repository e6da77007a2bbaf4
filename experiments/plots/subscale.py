"""Plots and table of the ablation of §4: what lanes and horizon cost and bring.

    python -m experiments.plots.subscale

Reads experiments/results/subscale/runs.csv and writes nll.png (held-out NLL
against lanes, against the horizon at the most lanes, against speed), lanes.png
(NLL lane by lane) and table.md beside it.
"""

import pathlib

from absl import app, flags

from experiments.plots import study
from wavernn_jax import files
from wavernn_jax.evaluation import pictures

_ABLATION = flags.DEFINE_string('ablation', str(
    pathlib.Path(__file__).parent.parent / 'results' / 'subscale' / 'runs.csv'), 'Rows.')

PLAIN = 'wavernn', 1, 0


def key(row: dict) -> tuple:
  """(kind, lanes, horizon) of a run."""
  return row['kind'], int(row['lanes']), int(row['horizon'])


def figure(cells: dict):
  """NLL against lanes at the horizon most runs have, against horizon, and against speed."""
  result = pictures.new_figure(13, 4)
  lanes, horizon, speed = result.subplots(1, 3, sharey=True)
  folded = [name for name in cells if name[0] == 'subscale']
  horizons = [name[2] for name in folded]
  usual, most = max(set(horizons), key=horizons.count), max(name[1] for name in folded)
  by_lanes = sorted((n for n in cells if n == PLAIN or n in folded and n[2] == usual),
                    key=lambda n: n[1])
  _points(lanes, cells, by_lanes, [n[1] for n in by_lanes], 'o-', f'subscale, F = {usual}')
  fused = [n for n in cells if n[0] == 'fused']
  _points(lanes, cells, fused, [n[1] for n in fused], 's', 'fused')
  lanes.set_xscale('log', base=2)
  lanes.set(xlabel='lanes S', ylabel='held-out NLL (nats/sample)')
  by_horizon = sorted((n for n in folded if n[1] == most), key=lambda n: n[2])
  _points(horizon, cells, by_horizon, [n[2] for n in by_horizon], 'o-', f'{most} lanes')
  horizon.set(xlabel='horizon F (positions)')
  for kind, marker in (('wavernn', 'D'), ('subscale', 'o'), ('fused', 's')):
    names = [n for n in cells if n[0] == kind]
    _points(speed, cells, names, [_speed(cells[n]) for n in names], marker, kind)
  speed.set_xscale('log')
  speed.set(xlabel='samples/s of one utterance, scan sampler')
  for panel in (lanes, horizon, speed):
    panel.grid(alpha=0.3)
    panel.legend(fontsize='small')
  return result


def _speed(cell) -> float:
  return float(cell.row['samples_per_second'])


def _points(panel, cells, names, places, style, label):
  """NLLs, with the intervals of their differences to the plain model as bars."""
  if not names:
    return
  bars = [study.interval_bar(cells[n], cells.get(PLAIN)) for n in names]
  panel.errorbar(places, [cells[n].nll for n in names], yerr=list(zip(*bars, strict=True)),
                 fmt=style, capsize=3, label=label)


def lane_figure(cells: dict):
  """NLL of each lane, a line a run, beside the plain model's mean."""
  result = pictures.new_figure(7, 4)
  panel = result.subplots()
  for (kind, lanes, horizon), cell in sorted(cells.items()):
    if nll := [float(n) for n in cell.row['nll_lanes'].split()]:
      panel.plot([s / lanes for s in range(lanes)], nll, '.-',
                 label=f'{kind}, {lanes} lanes, F = {horizon}')
  if PLAIN in cells:
    panel.axhline(cells[PLAIN].nll, color='black', label='plain')
  panel.set(xlabel='lane s / S', ylabel='held-out NLL (nats/sample)')
  panel.grid(alpha=0.3)
  panel.legend(fontsize='small')
  return result


def table(cells: dict) -> str:
  """Markdown: every run with its difference to the plain model."""
  rows = []
  for name in sorted(cells, key=lambda n: (n[0] == 'fused', *n[1:])):
    kind, lanes, horizon = name
    cell, gap = cells[name], ''
    if PLAIN in cells and name != PLAIN:
      gap = '{:+.3f} [{:+.3f}, {:+.3f}]'.format(*study.difference(cell, cells[PLAIN]))
    row = cell.row
    rows.append([kind, lanes, horizon, f'{int(row["parameters"]):,}',
                 f'{float(row["nll_coarse"]):.3f}', f'{float(row["nll_fine"]):.3f}',
                 f'{cell.nll:.3f}', gap, f'{_speed(cell):,.0f}',
                 f'{float(row["latency_seconds"]):.2f}', f'{float(row["log_mel_l1"]):.2f}'])
  return study.markdown(
      ['model', 'lanes', 'F', 'parameters', 'coarse', 'fine', 'NLL (nats/sample)',
       'difference to plain', 'samples/s', 'latency (s)', 'log-mel L1'], rows)


def main(_):
  cells, folder = study.read_cells(_ABLATION.value, key), pathlib.Path(_ABLATION.value).parent
  pictures.save(figure(cells), folder / 'nll.png')
  pictures.save(lane_figure(cells), folder / 'lanes.png')
  files.write_text(folder / 'table.md', table(cells))
  print(table(cells))


if __name__ == '__main__':
  app.run(main)
