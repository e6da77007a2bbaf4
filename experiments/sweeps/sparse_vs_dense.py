"""The equal-parameter study (§3, Figure 2): dense small against sparse large.

    python -m experiments.sweeps.sparse_vs_dense --do=run --data_dir=DIR
    python -m experiments.sweeps.sparse_vs_dense --do=report

Every run has the same number of parameters after pruning, the same data, updates and batch;
the models differ in width and sparsity alone, and each form is trained at the rate that
suits it best. R is pruned to 96.5%: each number of the state is then read by (H/4)(1 − Z) =
4.5 blocks of a gate where they are 4×4, and by 1.1 where they are 16×1. The output layers
and the map from the conditioning are as sparse as the budget makes them, which is less.
Pruning begins after 1,000 updates. `regrown` blocks keep the weights that they were pruned
with, and may come back.
"""

import dataclasses
import functools

import jax

from experiments.sweeps import cells as cells_lib, runs, study
from wavernn_jax import config as config_lib, models, pruning
from wavernn_jax.evaluation import pictures

UPDATES = 4_000
DENSE, SPARSE = (96, 96), (512, 128)  # units and projection
RECURRENT = 0.965  # sparsity of R
BLOCKS = '4x4', '16x1', '8x4', '1x1', '4x4 regrown'  # outputs x inputs
_FIRST_PRUNED = 1_000  # update, as in the paper, where the run is long enough


def dense_config(sizes: tuple[int, int], prediction: str, updates: int) -> config_lib.Config:
  """A run of the study before pruning, of so many units and as wide a projection."""
  units, projection = sizes
  return config_lib.Config(
      model=config_lib.ModelConfig(units=units, projection=projection, channels=16, layers=2,
                                   prediction=prediction),
      optimizer=config_lib.OptimizerConfig(warmup_steps=200),
      train=config_lib.TrainConfig(
          steps=updates, batch=4, crop=1_920, burn_in=240, eval_every=max(1, updates // 2),
          save_every=max(1, updates // 20), log_every=100),
      evaluation=config_lib.EvaluationConfig(synthesize=0, max_valid_utterances=16))


def sparse_config(dense: tuple[int, int], sizes: tuple[int, int], block: str, prediction: str,
                  updates: int) -> config_lib.Config:
  """A wider model pruned to the parameters of a dense one, over 40% of the updates.

  Args:
    dense: sizes of the model whose parameters are the budget.
    sizes: units and projection before pruning.
    block: one of `BLOCKS`.
    prediction: of both.
    updates: training length.
  """
  config = dense_config(sizes, prediction, updates)
  outputs, inputs = map(int, block.removesuffix(' regrown').split('x'))
  config.pruning = config_lib.PruningConfig(
      RECURRENT, 0.5, 0.5, 0.5, block_outputs=outputs, block_inputs=inputs,
      start=min(_FIRST_PRUNED, updates // 4), steps=int(0.4 * updates),
      interval=max(1, updates // 1_000), regrow=block.endswith('regrown'))
  shapes = parameter_shapes(config)
  recurrent = size(shapes['recurrent'])
  others = prunable(shapes, config.pruning) - recurrent
  left = budget_of(dense, prediction) - unprunable(config) - recurrent * (1 - RECURRENT)
  for field in ('hidden', 'output', 'conditioning'):
    setattr(config.pruning, field, 1 - left / others)
  return config


def parameter_shapes(config: config_lib.Config):
  """Shapes of the parameters of a run, nothing computed."""
  return jax.eval_shape(lambda: models.build(config).init(0))


def size(tree) -> int:
  """Numbers in all leaves."""
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


def prunable(shapes, config: config_lib.PruningConfig) -> int:
  """Parameters in the matrices that are pruned."""
  return sum(jax.tree.leaves(jax.tree.map(
      lambda target, leaf: 0 if target is None else leaf.size,
      pruning.targets(shapes, config), shapes, is_leaf=lambda node: node is None)))


def unprunable(config: config_lib.Config) -> int:
  """Parameters of a run that no pruning reaches: biases, inputs and conditioning layers."""
  shapes = parameter_shapes(config)
  everything = config_lib.PruningConfig(0.5, 0.5, 0.5, 0.5)
  return size(shapes) - prunable(shapes, everything)


@functools.cache
def budget_of(dense: tuple[int, int], prediction: str) -> int:
  """Parameters of a dense model of the study."""
  return size(parameter_shapes(dense_config(dense, prediction, UPDATES)))


def _systems(dense, sizes, predictions, blocks, length: int, seeds) -> list[study.System]:
  """The dense model and all blocks of each prediction; but for the first one of `blocks`, one
  seed and one prediction."""
  systems = []
  for prediction in predictions:
    common = {'budget': budget_of(dense, prediction)}
    plain = functools.partial(dense_config, dense, prediction)
    systems.append(study.System(
        f'dense{dense[0]}_{prediction}', common | {
            'sparsity': 0.0, 'block': 'dense', 'unprunable': unprunable(plain(length))},
        plain, (length,), seeds))
    first = f'sparse{sizes[0]}_{blocks[0]}_{prediction}'
    for block in blocks if prediction == predictions[0] else blocks[:1]:
      configure = functools.partial(sparse_config, dense, sizes, block, prediction)
      name = f'sparse{sizes[0]}_{block.replace(" ", "_")}_{prediction}'
      systems.append(study.System(
          name, common | {'sparsity': configure(length).pruning.recurrent, 'block': block,
                          'unprunable': unprunable(configure(length))},
          configure, (length,), seeds if block == blocks[0] else seeds[:1],
          tuned_as='' if name == first else first))
  return systems


def full() -> study.Variant:
  return study.Variant(
      _systems(DENSE, SPARSE, ('spectral', 'none'), BLOCKS, UPDATES, (0, 1, 2)),
      tuning_updates=1_500)


def tiny() -> study.Variant:
  systems = _systems((48, 48), (96, 64), ('spectral',), ('4x4', '4x4 regrown'), 10, (0,))
  return study.Variant(
      [dataclasses.replace(s, configure=functools.partial(_shortened, s.configure))
       for s in systems], tuning_updates=10, rates=(4e-3,))


def _shortened(configure, updates: int) -> config_lib.Config:
  """A run of seconds, of the same model."""
  config = configure(updates)
  config.model.taps = 8
  config.train.batch, config.train.crop, config.train.burn_in = 2, 120, 20
  config.train.eval_every = config.train.save_every = updates
  config.evaluation.max_valid_utterances = config.evaluation.free_running = 1
  return config


def key(row: dict) -> tuple:
  """(updates, budget, sparsity of R, block, prediction) of a run."""
  return (int(row['updates']), int(row['budget']), float(row['sparsity']), row['block'],
          row.get('prediction') or 'none')  # older rows know no prediction


def dense_of(cells: dict, name: tuple):
  """The dense cell that a cell is compared with, or None if it has not run yet."""
  return cells.get((*name[:2], 0.0, 'dense', name[4]))


def table(cells: dict) -> str:
  """Every cell with its difference to the dense model of its budget."""
  rows = []
  for name in sorted(cells):
    updates, budget, sparsity, block, prediction = name
    cell = cells[name]
    rows.append([f'{updates:,}', prediction, f'{budget:,}', cell.row['units'], f'{sparsity:.1%}',
                 block, f'{int(cell.row["parameters"]):,}', cell.row.get('unprunable') or '',
                 ', '.join(f'{n:.3f}' for n in cell.nll_seeds),
                 *cells_lib.gap_columns(cell, dense_of(cells, name)),
                 *(cells_lib.mean(cell, measure, 2) for measure in ('voicing_f1', 'periodicity')),
                 *cells_lib.cost_columns(cell)])
  return cells_lib.markdown(
      ['updates', 'prediction', 'budget', 'units', 'sparsity of R', 'block', 'parameters',
       'never pruned', 'NLL (nats/sample) of each seed', 'difference to dense',
       *cells_lib.GAP_HEADER, 'voicing F1', 'periodicity', *cells_lib.COST_HEADER], rows)


def figures(cells: dict) -> dict:
  """One panel a training length and prediction: a line a budget, and the other blocks as marks."""
  forms = sorted({(name[0], name[4]) for name in cells})
  blocks = [name[3] for name in cells if name[3] != 'dense']
  usual = max(sorted(set(blocks)), key=blocks.count, default='dense')
  result = pictures.new_figure(5 * len(forms), 4)
  panels = result.subplots(1, len(forms), squeeze=False, sharex=True)[0]
  for panel, form in zip(panels, forms, strict=True):
    own = [name for name in cells if (name[0], name[4]) == form]
    for color, budget in enumerate(sorted({name[1] for name in own})):
      line = sorted((n for n in own if n[1] == budget and n[3] in ('dense', usual)),
                    key=lambda n: n[2])
      _points(panel, cells, line, f'{budget:,} parameters, {usual}', 'o-', f'C{color}')
    for block, marker in zip(sorted(set(blocks) - {usual}), 's^vDP', strict=False):
      _points(panel, cells, [n for n in own if n[3] == block], block, marker, 'black')
    panel.set(title=f'{form[1]}, {form[0]:,} updates', xlabel='sparsity of R')
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


STUDY = study.Study('sparse_vs_dense', {study.FULL: full, 'tiny': tiny}, key, table, figures,
                    runs.free_running)

if __name__ == '__main__':
  study.main(STUDY)
