"""Plots and table of the ablation of §4: what lanes and horizon cost and bring.

    python -m experiments.plots.subscale

Reads experiments/results/subscale/runs.csv and writes nll.png (held-out NLL
against lanes, against the horizon at the most lanes, against speed), lanes.png
(NLL lane by lane, less the plain model's) and table.md beside it.
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
  """(kind, lanes, horizon, updates) of a run."""
  return row['kind'], int(row['lanes']), int(row['horizon']), int(row['updates'])


def plain_of(cells: dict, name: tuple):
  """The plain model after as many updates, or None if it has not run yet."""
  return cells.get((*PLAIN, name[3]))


def figure(cells: dict):
  """NLL against lanes at the horizon most runs have, against horizon, and against speed.

  A line is a training length.
  """
  result = pictures.new_figure(13, 4)
  lanes, horizon, speed = result.subplots(1, 3, sharey=True)
  folded = [name for name in cells if name[0] == 'subscale']
  horizons = [name[2] for name in folded]
  usual, most = max(set(horizons), key=horizons.count), max(name[1] for name in folded)
  for color, updates in enumerate(sorted({name[3] for name in cells})):
    def draw(panel, chosen, place, style, label, color=f'C{color}', updates=updates):
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
  lanes.set_xscale('log', base=2)
  lanes.set(xlabel='lanes S', ylabel='held-out NLL (nats/sample)')
  horizon.set(xlabel='horizon F (positions)')
  speed.set_xscale('log')
  speed.set(xlabel='samples/s of one utterance, scan sampler')
  for panel in (lanes, horizon, speed):
    panel.grid(alpha=0.3)
    panel.legend(fontsize='x-small')
  return result


def _speed(cell) -> float:
  return float(cell.row['samples_per_second'])


def _points(panel, cells, names, places, style, color, label):
  """NLLs, with the intervals of their differences to the plain model as bars."""
  if not names:
    return
  bars = [study.interval_bar(cells[n], plain_of(cells, n)) for n in names]
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


def table(cells: dict) -> str:
  """Markdown: every run with its difference to the plain model of its training length."""
  rows = []
  for name in sorted(cells, key=lambda n: (n[3], n[0] == 'fused', *n[1:3])):
    kind, lanes, horizon, updates = name
    cell, plain, gap = cells[name], plain_of(cells, name), ''
    if plain and plain is not cell:
      gap = '{:+.3f} [{:+.3f}, {:+.3f}]'.format(*study.difference(cell, plain))
    row = cell.row
    rows.append([f'{updates:,}', kind, lanes, horizon, f'{int(row["parameters"]):,}',
                 f'{float(row["nll_coarse"]):.3f}', f'{float(row["nll_fine"]):.3f}',
                 f'{cell.nll:.3f}', gap, f'{_speed(cell):,.0f}',
                 f'{float(row["latency_seconds"]):.2f}', f'{float(row["log_mel_l1"]):.2f}'])
  return study.markdown(
      ['updates', 'model', 'lanes', 'F', 'parameters', 'coarse', 'fine', 'NLL (nats/sample)',
       'difference to plain', 'samples/s', 'latency (s)', 'log-mel L1'], rows)


def main(_):
  cells, folder = study.read_cells(_ABLATION.value, key), pathlib.Path(_ABLATION.value).parent
  pictures.save(figure(cells), folder / 'nll.png')
  pictures.save(lane_figure(cells), folder / 'lanes.png')
  files.write_text(folder / 'table.md', table(cells))
  print(table(cells))


if __name__ == '__main__':
  app.run(main)
