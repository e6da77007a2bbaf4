"""The equal-parameter study (§3, Figure 2): dense small against sparse large.

    python -m experiments.sweeps.sparse_vs_dense --data_dir=DIR --workdir=RUNS

Every run of a budget has the same number of parameters after pruning, the same
data, updates and batch; the models differ in width and sparsity alone. Rows go
to experiments/results/sparse_vs_dense.csv; finished ones are skipped and a
stopped run goes on, so the command may be repeated at will.
"""

import pathlib

from absl import app, flags
import jax

from experiments.sweeps import sweep
from wavernn_jax import config as config_lib, models, pruning

_DATA = flags.DEFINE_string('data_dir', None, 'Corpus with train, valid and test.', required=True)
_WORKDIR = flags.DEFINE_string('workdir', 'runs/sparse_vs_dense', 'Folder of the runs.')
_RESULTS = flags.DEFINE_string('results', str(
    pathlib.Path(__file__).parent.parent / 'results' / 'sparse_vs_dense.csv'), 'CSV.')
_DENSE = flags.DEFINE_multi_integer('dense_units', [64], 'Dense models that set the budgets.')
_WIDER = flags.DEFINE_multi_float('wider', [2, 4, 6], 'Widths of sparse models over the dense.')
_SEEDS = flags.DEFINE_multi_integer('train_seed', [0, 1], 'Seeds.')
_UPDATES = flags.DEFINE_integer('updates', 20_000, 'Training steps of every run.')
_BATCH = flags.DEFINE_integer('batch', 8, 'Crops.')
_CROP = flags.DEFINE_integer('crop', 480, 'Samples.')
_CHANNELS = flags.DEFINE_integer('channels', 32, 'Conditioning channels.')


def dense_config(units: int, seed: int) -> config_lib.Config:
  """A run of the study before pruning; the projection is half the units."""
  updates = _UPDATES.value
  return config_lib.Config(
      model=config_lib.ModelConfig(units=units, projection=units // 2,
                                   channels=_CHANNELS.value, layers=2),
      data=config_lib.DataConfig(dir=_DATA.value),
      optimizer=config_lib.OptimizerConfig(learning_rate=2e-3, final_learning_rate=2e-5),
      train=config_lib.TrainConfig(
          steps=updates, batch=_BATCH.value, crop=_CROP.value, burn_in=_CROP.value // 8,
          seed=seed, eval_every=updates // 4, save_every=updates // 20, log_every=100),
      evaluation=config_lib.EvaluationConfig(synthesize=0, free_running=0))


def sparse_config(units: int, budget: int, seed: int) -> tuple[config_lib.Config, float]:
  """A wider model pruned to `budget` parameters, and its sparsity.

  All matrices have the same sparsity: the gates, O_1 to O_4 and the map from
  the conditioning to the gates. The paper prunes over the first 40% of the
  updates.
  """
  config = dense_config(units, seed)
  updates = config.train.steps
  config.pruning = config_lib.PruningConfig(
      0.5, 0.5, 0.5, 0.5, start=updates // 500, steps=int(0.4 * updates),
      interval=max(1, updates // 1000))
  shapes = jax.eval_shape(lambda: models.build(config).init(0))
  total = sum(leaf.size for leaf in jax.tree.leaves(shapes))
  sparsities = pruning.targets(shapes, config.pruning)
  prunable = sum(leaf.size for leaf, target in zip(
      jax.tree.leaves(shapes), jax.tree.leaves(sparsities, is_leaf=lambda t: t is None),
      strict=True) if target is not None)
  sparsity = (total - budget) / prunable
  for field in ('recurrent', 'hidden', 'output', 'conditioning'):
    setattr(config.pruning, field, sparsity)
  return config, sparsity


def runs():
  """The study in order of importance: all of seed 0 first."""
  for seed in _SEEDS.value:
    for dense_units in _DENSE.value:
      config = dense_config(dense_units, seed)
      shapes = jax.eval_shape(lambda c=config: models.build(c).init(0))
      budget = sum(leaf.size for leaf in jax.tree.leaves(shapes))
      fields = {'budget': budget, 'sparsity': 0.0, 'block': 'dense'}
      yield sweep.Run(f'dense{dense_units}_s{seed}', fields, config)
      for factor in _WIDER.value:
        units = int(dense_units * factor)
        config, sparsity = sparse_config(units, budget, seed)
        fields = {'budget': budget, 'sparsity': round(sparsity, 4), 'block': '16x1'}
        yield sweep.Run(f'sparse{units}_of_dense{dense_units}_s{seed}', fields, config)


def main(_):
  sweep.execute(list(runs()), _RESULTS.value, _WORKDIR.value)


if __name__ == '__main__':
  app.run(main)
