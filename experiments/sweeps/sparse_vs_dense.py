"""The equal-parameter study (§3, Figure 2): dense small against sparse large.

    python -m experiments.sweeps.sparse_vs_dense --data_dir=DIR --workdir=RUNS

Every run of a budget has the same number of parameters after pruning, the same
data, updates and batch; the models differ in width and sparsity alone. Rows go
to experiments/results/sparse_vs_dense/runs.csv; finished ones are skipped and a
stopped run goes on, so the command may be repeated at will. The plot and the
table come from the CSV: experiments/plots/sparse_vs_dense.py.
"""

import itertools
import pathlib

from absl import app, flags
import jax

from experiments.sweeps import sweep
from wavernn_jax import config as config_lib, executors, models, pruning

_DATA = flags.DEFINE_string('data_dir', None, 'Corpus with train, valid and test.')
_WORKDIR = flags.DEFINE_string('workdir', 'runs/sparse_vs_dense', 'Folder of the runs.')
_RESULTS = flags.DEFINE_string('results', str(
    pathlib.Path(__file__).parent.parent / 'results' / 'sparse_vs_dense' / 'runs.csv'), 'CSV.')
_DENSE = flags.DEFINE_multi_integer('dense_units', [32, 64], 'Dense models that set the budgets.')
_SPARSE = flags.DEFINE_multi_integer('sparse_units', [64, 128, 256], 'Widths of sparse models.')
_BLOCK_WIDTH = flags.DEFINE_integer(
    'block_width', 128, 'Sparse width at which 4x4 and 1x1 are compared with 16x1, in the '
    'first budget; 0: not at all.')
_SEEDS = flags.DEFINE_multi_integer('train_seed', [0, 1], 'Seeds.')
_UPDATES = flags.DEFINE_multi_integer('updates', [5_000, 20_000], 'Training lengths.')
_BATCH = flags.DEFINE_integer('batch', 4, 'Crops.')
_CROP = flags.DEFINE_integer('crop', 480, 'Samples.')
_EXECUTOR = flags.DEFINE_string('executor', 'process', 'Or ray,cpus=2,…: executors.create.')
_CHANNELS = flags.DEFINE_integer('channels', 16, 'Conditioning channels.')


def dense_config(units: int, updates: int, seed: int) -> config_lib.Config:
  """A run of the study before pruning; the projection is half the units."""
  return config_lib.Config(
      model=config_lib.ModelConfig(units=units, projection=units // 2,
                                   channels=_CHANNELS.value, layers=2),
      data=config_lib.DataConfig(dir=_DATA.value),
      optimizer=config_lib.OptimizerConfig(learning_rate=2e-3, final_learning_rate=2e-5),
      train=config_lib.TrainConfig(
          steps=updates, batch=_BATCH.value, crop=_CROP.value, burn_in=_CROP.value // 8,
          seed=seed, eval_every=max(1, updates // 4), save_every=max(1, updates // 20),
          log_every=100),
      evaluation=config_lib.EvaluationConfig(
          synthesize=0, free_running=0, max_valid_utterances=16))


def sparse_config(units: int, budget: int, block: str, updates: int,
                  seed: int) -> tuple[config_lib.Config, float]:
  """A wider model pruned to `budget` parameters, and its sparsity.

  All matrices have the same sparsity: the gates, O_1 to O_4 and the map from
  the conditioning to the gates. The paper prunes over the first 40% of the
  updates.

  Args:
    units: width H.
    budget: parameters of the dense model.
    block: 'OUTPUTSxINPUTS'.
    updates: training length.
    seed: of weights and crops.
  """
  config = dense_config(units, updates, seed)
  outputs, inputs = map(int, block.split('x'))
  config.pruning = config_lib.PruningConfig(
      0.5, 0.5, 0.5, 0.5, block_outputs=outputs, block_inputs=inputs,
      start=updates // 500, steps=int(0.4 * updates), interval=max(1, updates // 1000))
  shapes = parameter_shapes(config)
  total = sum(leaf.size for leaf in jax.tree.leaves(shapes))
  targets = pruning.targets(shapes, config.pruning)
  prunable = sum(jax.tree.leaves(jax.tree.map(
      lambda target, leaf: 0 if target is None else leaf.size, targets, shapes,
      is_leaf=lambda node: node is None)))
  sparsity = (total - budget) / prunable
  for field in ('recurrent', 'hidden', 'output', 'conditioning'):
    setattr(config.pruning, field, sparsity)
  return config, sparsity


def parameter_shapes(config: config_lib.Config):
  """Shapes of the parameters of a run, nothing computed."""
  return jax.eval_shape(lambda: models.build(config).init(0))


def runs():
  """The study: short training lengths first, then all of the first seed."""
  for updates, seed, dense_units in itertools.product(
      _UPDATES.value, _SEEDS.value, _DENSE.value):
    suffix = f'u{updates}_s{seed}'
    config = dense_config(dense_units, updates, seed)
    budget = sum(leaf.size for leaf in jax.tree.leaves(parameter_shapes(config)))
    yield sweep.Run(f'dense{dense_units}_{suffix}',
                    {'budget': budget, 'sparsity': 0.0, 'block': 'dense'}, config)
    first = dense_units == _DENSE.value[0] and seed == _SEEDS.value[0]
    for units in (u for u in _SPARSE.value if u > dense_units):
      for block in ('16x1', '4x4', '1x1') if first and units == _BLOCK_WIDTH.value else ('16x1',):
        config, sparsity = sparse_config(units, budget, block, updates, seed)
        yield sweep.Run(f'sparse{units}_of_dense{dense_units}_{block}_{suffix}',
                        {'budget': budget, 'sparsity': round(sparsity, 4), 'block': block},
                        config)


def main(_):
  sweep.execute(list(runs()), _RESULTS.value, _WORKDIR.value,
                executor=executors.create(_EXECUTOR.value))


if __name__ == '__main__':
  flags.mark_flag_as_required('data_dir')
  app.run(main)
