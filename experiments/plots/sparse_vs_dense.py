"""Figure 2's form: NLL against sparsity at equal parameter counts, and the table.

    python -m experiments.plots.sparse_vs_dense

Reads experiments/results/sparse_vs_dense/runs.csv and writes nll.png and
table.md beside it.
"""

import pathlib

from absl import app, flags

from experiments.plots import study
from wavernn_jax import files
from wavernn_jax.evaluation import pictures

_RESULTS = flags.DEFINE_string('csv', str(
    pathlib.Path(__file__).parent.parent / 'results' / 'sparse_vs_dense' / 'runs.csv'), 'Rows.')


def key(row: dict) -> tuple:
  """(updates, budget, sparsity, block) of a run."""
  return int(row['updates']), int(row['budget']), float(row['sparsity']), row['block']


def dense_of(cells: dict, name: tuple):
  """The dense cell that a cell is compared with, or None if it has not run yet."""
  return cells.get((*name[:2], 0.0, 'dense'))


def figure(cells: dict):
  """One panel a training length: a line a budget, and the other blocks as marks."""
  lengths, budgets = (sorted({name[i] for name in cells}) for i in (0, 1))
  result = pictures.new_figure(5 * len(lengths), 4)
  panels = result.subplots(1, len(lengths), squeeze=False, sharex=True, sharey=True)[0]
  for panel, updates in zip(panels, lengths, strict=True):
    for color, budget in enumerate(budgets):
      line = sorted((n for n in cells if n[:2] == (updates, budget)
                     and n[3] in ('dense', '16x1')), key=lambda n: n[2])
      _points(panel, cells, line, f'{budget:,} parameters', 'o-', f'C{color}')
    for block, marker in (('4x4', 's'), ('1x1', '^')):
      _points(panel, cells, [n for n in cells if n[0] == updates and n[3] == block],
              f'{block} blocks', marker, 'black')
    panel.set(title=f'{updates:,} updates', xlabel='sparsity')
    panel.xaxis.set_major_formatter('{x:.0%}')
    panel.grid(alpha=0.3)
    panel.legend(fontsize='small')
  panels[0].set_ylabel('held-out NLL (nats/sample)')
  return result


def _points(panel, cells, names, label, style, color):
  """NLLs, with the intervals of their differences to the dense model as bars."""
  if not names:
    return
  nll = [cells[n].nll for n in names]
  bars = [study.interval_bar(cells[name], dense_of(cells, name)) for name in names]
  panel.errorbar([n[2] for n in names], nll, yerr=list(zip(*bars, strict=True)), fmt=style,
                 color=color, capsize=3, label=label)


def table(cells: dict) -> str:
  """Markdown: every cell with its difference to the dense model of its budget."""
  rows = []
  for name in sorted(cells):
    updates, budget, sparsity, block = name
    cell, reference = cells[name], dense_of(cells, name)
    gap = ''
    if reference and block != 'dense':
      gap = '{:+.3f} [{:+.3f}, {:+.3f}]'.format(*study.difference(cell, reference))
    rows.append([f'{updates:,}', f'{budget:,}', cell.row['units'], f'{sparsity:.1%}', block,
                 f'{int(cell.row["parameters"]):,}',
                 ', '.join(f'{n:.3f}' for n in cell.nll_seeds), gap])
  return study.markdown(['updates', 'budget', 'units', 'sparsity', 'block', 'parameters',
                         'NLL (nats/sample) of each seed', 'difference to dense'], rows)


def main(_):
  cells, folder = study.read_cells(_RESULTS.value, key), pathlib.Path(_RESULTS.value).parent
  pictures.save(figure(cells), folder / 'nll.png')
  files.write_text(folder / 'table.md', table(cells))
  print(table(cells))


if __name__ == '__main__':
  app.run(main)
