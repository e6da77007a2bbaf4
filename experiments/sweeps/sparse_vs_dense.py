"""The equal-parameter study (§3, Figure 2): dense small against sparse large.

    python -m experiments.sweeps.sparse_vs_dense --do=run --data_dir=DIR
    python -m experiments.sweeps.sparse_vs_dense --do=report

Every run of a budget has the same number of parameters after pruning, the same
data, updates and batch; the models differ in width and sparsity alone, and each is
trained at the rate that suits it best.
"""

import dataclasses
import functools

import jax

from experiments.sweeps import cells as cells_lib, study
from wavernn_jax import config as config_lib, models, pruning
from wavernn_jax.evaluation import pictures

LENGTHS = 5_000, 20_000  # updates
DENSE = 32, 64  # units of the dense models that set the budgets
SPARSE = (  # units of the dense model of the budget, units, block
    (32, 64, '16x1'), (32, 128, '16x1'), (32, 128, '4x4'), (32, 128, '1x1'), (32, 256, '16x1'),
    (64, 128, '16x1'), (64, 256, '16x1'))
_FIRST_PRUNED = 1_000  # update, as in the paper, where the run is long enough


def dense_config(units: int, updates: int) -> config_lib.Config:
  """A run of the study before pruning; the projection is half the units."""
  return config_lib.Config(
      model=config_lib.ModelConfig(units=units, projection=units // 2, channels=16, layers=2,
                                   prediction='spectral'),
      optimizer=config_lib.OptimizerConfig(warmup_steps=200),
      train=config_lib.TrainConfig(
          steps=updates, batch=4, crop=1_920, burn_in=240, eval_every=max(1, updates // 4),
          save_every=max(1, updates // 20), log_every=100),
      evaluation=config_lib.EvaluationConfig(
          synthesize=0, free_running=0, max_valid_utterances=16))


def sparse_config(dense_units: int, units: int, block: str, updates: int) -> config_lib.Config:
  """A wider model pruned to the parameters of a dense one.

  All matrices have the same sparsity: the gates, O_1 to O_4 and the map from
  the conditioning to the gates. The paper prunes over the first 40% of the
  updates.

  Args:
    dense_units: of the model whose parameters are the budget.
    units: width H.
    block: 'OUTPUTSxINPUTS'.
    updates: training length.
  """
  config = dense_config(units, updates)
  outputs, inputs = map(int, block.split('x'))
  config.pruning = config_lib.PruningConfig(
      0.5, 0.5, 0.5, 0.5, block_outputs=outputs, block_inputs=inputs,
      start=min(_FIRST_PRUNED, updates // 5), steps=int(0.4 * updates),
      interval=max(1, updates // 1_000))
  shapes = parameter_shapes(config)
  targets = pruning.targets(shapes, config.pruning)
  prunable = sum(jax.tree.leaves(jax.tree.map(
      lambda target, leaf: 0 if target is None else leaf.size, targets, shapes,
      is_leaf=lambda node: node is None)))
  sparsity = (_size(shapes) - budget_of(dense_units)) / prunable
  for field in ('recurrent', 'hidden', 'output', 'conditioning'):
    setattr(config.pruning, field, sparsity)
  return config


def parameter_shapes(config: config_lib.Config):
  """Shapes of the parameters of a run, nothing computed."""
  return jax.eval_shape(lambda: models.build(config).init(0))


def _size(tree) -> int:
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


@functools.cache
def budget_of(dense_units: int) -> int:
  """Parameters of a dense model of the study."""
  return _size(parameter_shapes(dense_config(dense_units, LENGTHS[0])))


def _systems(dense, sparse, lengths, seeds) -> list[study.System]:
  systems = [study.System(
      f'dense{units}', {'budget': budget_of(units), 'sparsity': 0.0, 'block': 'dense'},
      functools.partial(dense_config, units), lengths, seeds) for units in dense]
  for dense_units, units, block in sparse:
    configure = functools.partial(sparse_config, dense_units, units, block)
    sparsity = round(configure(lengths[0]).pruning.recurrent, 4)
    systems.append(study.System(
        f'sparse{units}_of_dense{dense_units}_{block}',
        {'budget': budget_of(dense_units), 'sparsity': sparsity, 'block': block},
        configure, lengths, seeds))
  return systems


def full() -> study.Variant:
  return study.Variant(_systems(DENSE, SPARSE, LENGTHS, (0, 1, 2)), tuning_updates=1_000)


def tiny() -> study.Variant:
  systems = _systems((32,), ((32, 64, '16x1'),), (10,), (0,))
  return study.Variant(
      [dataclasses.replace(s, configure=functools.partial(_shortened, s.configure))
       for s in systems], tuning_updates=10, rates=(4e-3,))


def _shortened(configure, updates: int) -> config_lib.Config:
  """A run of seconds, of the same model."""
  config = configure(updates)
  config.model.taps = 8
  config.train.batch, config.train.crop, config.train.burn_in = 2, 120, 20
  config.train.eval_every = config.train.save_every = updates
  config.evaluation.max_valid_utterances = 1
  return config


def key(row: dict) -> tuple:
  """(updates, budget, sparsity, block) of a run."""
  return int(row['updates']), int(row['budget']), float(row['sparsity']), row['block']


def dense_of(cells: dict, name: tuple):
  """The dense cell that a cell is compared with, or None if it has not run yet."""
  return cells.get((*name[:2], 0.0, 'dense'))


def table(cells: dict) -> str:
  """Every cell with its difference to the dense model of its budget."""
  rows = []
  for name in sorted(cells):
    updates, budget, sparsity, block = name
    cell = cells[name]
    rows.append([f'{updates:,}', f'{budget:,}', cell.row['units'], f'{sparsity:.1%}', block,
                 f'{int(cell.row["parameters"]):,}',
                 ', '.join(f'{n:.3f}' for n in cell.nll_seeds),
                 *cells_lib.gap_columns(cell, dense_of(cells, name)),
                 *cells_lib.cost_columns(cell)])
  return cells_lib.markdown(
      ['updates', 'budget', 'units', 'sparsity', 'block', 'parameters',
       'NLL (nats/sample) of each seed', 'difference to dense', *cells_lib.GAP_HEADER,
       *cells_lib.COST_HEADER], rows)


def figures(cells: dict) -> dict:
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
  return {'nll.png': result}


def _points(panel, cells, names, label, style, color):
  """NLLs, with the intervals of their differences to the dense model as bars."""
  if not names:
    return
  bars = [cells_lib.interval_bar(cells[name], dense_of(cells, name)) for name in names]
  panel.errorbar([n[2] for n in names], [cells[n].nll for n in names],
                 yerr=list(zip(*bars, strict=True)), fmt=style, color=color, capsize=3,
                 label=label)


STUDY = study.Study('sparse_vs_dense', {study.FULL: full, 'tiny': tiny}, key, table, figures)

if __name__ == '__main__':
  study.main(STUDY)
