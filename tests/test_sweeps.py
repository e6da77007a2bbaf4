"""Studies: equal parameters in a budget, finished rows skipped, stopped runs resumed."""

import json

from absl import flags
from absl.testing import flagsaver
import jax
import numpy as np
import pytest

from experiments.configs import dense
from experiments.sweeps import sparse_vs_dense, sweep
from wavernn_jax import commands, models, pruning, rules
from wavernn_jax.training import step as step_lib


@pytest.fixture
def study_flags():
  if not flags.FLAGS.is_parsed():
    flags.FLAGS(['test'])
  with flagsaver.flagsaver(data_dir=str(commands.DEMO_SPEECH)):
    yield


def _tiny_run(name, seed=0):
  config = dense.get_config('tiny')
  config.data.dir = str(commands.DEMO_SPEECH)
  config.train.seed = seed
  config.evaluation.synthesize = config.evaluation.free_running = 0
  return sweep.Run(name, {'budget': 1}, config)


@pytest.mark.parametrize('block', ['16x1', '4x4', '1x1'])
def test_sparse_runs_of_a_budget_have_its_parameters(study_flags, block):
  budget = 18_832
  config, sparsity = sparse_vs_dense.sparse_config(128, budget, block, 100, 0)
  model = models.build(config)
  state = step_lib.initial_state(model.init(0), config)
  masks = pruning.update_masks(state['params'], state['masks'],
                               config.pruning.start + config.pruning.steps, config.pruning)
  found = pruning.count_parameters(state['params'], masks)
  matrices = len(jax.tree.leaves(masks))
  size = np.prod(pruning.block_shape(config.pruning))
  assert abs(found - budget) <= matrices * size / 2 + 1  # each matrix is rounded to a block
  assert 0.8 < sparsity < 0.9


def test_every_run_of_the_study_has_its_own_name_and_valid_config(study_flags):
  runs = list(sparse_vs_dense.runs())
  assert len({run.name for run in runs}) == len(runs)
  for run in runs:
    rules.check(run.config)
  for updates in (5_000, 20_000):  # the same data and steps in all
    assert len({(r.config.train.batch, r.config.train.crop) for r in runs}) == 1
    assert sum(r.config.train.steps == updates for r in runs) == len(runs) / 2


def test_rows_are_what_evaluation_says_and_finished_ones_are_skipped(tmp_path, monkeypatch):
  rows_file = tmp_path / 'results' / 'runs.csv'
  sweep.execute([_tiny_run('a')], rows_file, tmp_path / 'runs')
  result = json.loads((tmp_path / 'runs' / 'a' / 'evaluation_test.json').read_text())
  (row,) = sweep.read_rows(rows_file)
  assert float(row['nll']) == result['nll']
  assert int(row['updates']) == 20 and row['name'] == 'a' and row['budget'] == '1'
  config = _tiny_run('a').config
  assert int(row['parameters']) == sum(
      leaf.size for leaf in jax.tree.leaves(models.build(config).init(0)))
  utterances = sweep.read_rows(rows_file.with_name('utterances.csv'))
  nats = sum(float(u['nats_coarse']) + float(u['nats_fine']) for u in utterances)
  assert nats / sum(int(u['samples']) for u in utterances) == pytest.approx(result['nll'])

  trained = []
  train = commands.train
  monkeypatch.setattr(commands, 'train', lambda c, w: trained.append(w) or train(c, w))
  sweep.execute([_tiny_run('a'), _tiny_run('b', seed=1)], rows_file, tmp_path / 'runs')
  assert trained == [str(tmp_path / 'runs' / 'b')]
  assert [r['name'] for r in sweep.read_rows(rows_file)] == ['a', 'b']


def test_a_run_that_was_stopped_goes_on_and_gives_one_row(tmp_path, monkeypatch):
  rows_file, run = tmp_path / 'runs.csv', _tiny_run('a')
  evaluate = commands.evaluate
  monkeypatch.setattr(commands, 'evaluate', lambda *args: 1 / 0)  # dies after training
  with pytest.raises(ZeroDivisionError):
    sweep.execute([run], rows_file, tmp_path / 'runs')
  assert sweep.read_rows(rows_file) == []
  monkeypatch.setattr(commands, 'evaluate', evaluate)
  monkeypatch.setattr(commands, 'train', lambda *args: {'step': 5})  # as after a signal
  sweep.execute([run], rows_file, tmp_path / 'runs')
  assert sweep.read_rows(rows_file) == []
  monkeypatch.undo()
  sweep.execute([run], rows_file, tmp_path / 'runs')
  steps = [json.loads(line) for line in
           (tmp_path / 'runs' / 'a' / 'metrics.jsonl').read_text().splitlines()]
  assert max(row['step'] for row in steps) == 20
  assert sum('nll' in row and row['step'] == 20 for row in steps) == 1  # not trained twice
  assert len(sweep.read_rows(rows_file)) == 1


def test_rows_of_a_name_are_replaced_and_new_columns_added(tmp_path):
  path = tmp_path / 'new' / 'rows.csv'
  sweep.replace_rows(path, 'a', [{'name': 'a', 'x': 1}])
  sweep.replace_rows(path, 'b', [{'name': 'b', 'x': 2, 'y': 3}, {'name': 'b', 'x': 4, 'y': 5}])
  sweep.replace_rows(path, 'a', [{'name': 'a', 'x': 6, 'y': 7}])
  assert [(r['name'], r['x'], r['y']) for r in sweep.read_rows(path)] == [
      ('b', '2', '3'), ('b', '4', '5'), ('a', '6', '7')]
