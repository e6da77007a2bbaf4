"""Studies: rates tuned, finished rows skipped, stopped runs resumed, what rows say."""

import json
import subprocess
import sys

import jax
import numpy as np
import processes
import pytest

from experiments.configs import dense
from experiments.sweeps import (
  fine_tuning,
  prediction,
  rows as rows_lib,
  runs as runs_lib,
  sparse_vs_dense,
  spent,
  study,
  subscale,
  systems,
)
from wavernn_jax import commands, executors, models, pruning, rules
from wavernn_jax.errors import InputError
from wavernn_jax.training import step as step_lib
from wavernn_jax.training.run import Diverged

STUDIES = (prediction.STUDY, sparse_vs_dense.STUDY, subscale.STUDY, systems.STUDY,
           fine_tuning.STUDY)


def _tiny_config(updates=20):
  config = dense.get_config('tiny')
  config.data.dir = str(commands.DEMO_SPEECH)
  config.train.steps = updates
  config.evaluation.synthesize = config.evaluation.free_running = 0
  return config


def _tiny_run(name, seed=0):
  config = _tiny_config()
  config.train.seed = seed
  return runs_lib.Run(name, {'budget': 1}, config)


# Runs and rows


def test_rows_are_what_evaluation_says_and_finished_ones_are_skipped(tmp_path, monkeypatch):
  rows_file = tmp_path / 'results' / 'runs.csv'
  runs_lib.execute([_tiny_run('a')], rows_file, tmp_path / 'runs')
  result = json.loads((tmp_path / 'runs' / 'a' / 'evaluation_test.json').read_text())
  (row,) = rows_lib.read_rows(rows_file)
  assert float(row['nll']) == result['nll']
  config = _tiny_run('a').config
  assert {name: row[name] for name in ('name', 'budget', 'updates', 'samples_seen',
                                       'learning_rate', 'prediction')} == {
      'name': 'a', 'budget': '1', 'updates': '20', 'samples_seen': str(20 * 4 * 300),
      'learning_rate': str(config.optimizer.learning_rate), 'prediction': 'none'}
  assert row['commit'] and row['hardware'] and row['date']
  assert int(row['parameters']) == sum(
      leaf.size for leaf in jax.tree.leaves(models.build(config).init(0)))
  utterances = rows_lib.read_rows(rows_file.with_name('utterances.csv'))
  nats = sum(float(u['nats_coarse']) + float(u['nats_fine']) for u in utterances)
  assert nats / sum(int(u['samples']) for u in utterances) == pytest.approx(result['nll'])

  trained, train = [], commands.train
  monkeypatch.setattr(commands, 'train', lambda c, w: trained.append(w) or train(c, w))
  runs_lib.execute([_tiny_run('a'), _tiny_run('b', seed=1)], rows_file, tmp_path / 'runs')
  assert trained == [str(tmp_path / 'runs' / 'b')]
  assert [r['name'] for r in rows_lib.read_rows(rows_file)] == ['a', 'b']


def test_a_run_that_was_stopped_goes_on_and_gives_one_row(tmp_path, monkeypatch):
  rows_file, run = tmp_path / 'runs.csv', _tiny_run('a')
  monkeypatch.setattr(commands, 'evaluate', lambda *args: 1 / 0)  # dies after training
  with pytest.raises(ZeroDivisionError):
    runs_lib.execute([run], rows_file, tmp_path / 'runs')
  assert rows_lib.read_rows(rows_file) == []
  spent_before = spent.read(tmp_path / 'runs' / 'a')['cpu_seconds']
  monkeypatch.undo()
  monkeypatch.setattr(commands, 'train', lambda *args: {'step': 5})  # as after a signal
  with pytest.raises(executors.Stopped):
    runs_lib.execute([run], rows_file, tmp_path / 'runs')
  assert rows_lib.read_rows(rows_file) == []
  monkeypatch.undo()
  runs_lib.execute([run], rows_file, tmp_path / 'runs')
  steps = [json.loads(line) for line in
           (tmp_path / 'runs' / 'a' / 'metrics.jsonl').read_text().splitlines()]
  assert max(row['step'] for row in steps) == 20
  assert sum('nll' in row and row['step'] == 20 for row in steps) == 1  # not trained twice
  (row,) = rows_lib.read_rows(rows_file)
  assert float(row['cpu_hours']) >= round(spent_before / 3_600, 4) > 0


def test_rows_of_a_name_are_replaced_and_new_columns_added(tmp_path):
  path = tmp_path / 'new' / 'rows.csv'
  rows_lib.replace_rows(path, 'a', [{'name': 'a', 'x': 1}])
  rows_lib.replace_rows(path, 'b', [{'name': 'b', 'x': 2, 'y': 3}, {'name': 'b', 'x': 4, 'y': 5}])
  rows_lib.replace_rows(path, 'a', [{'name': 'a', 'x': 6, 'y': 7}])
  assert [(r['name'], r['x'], r['y']) for r in rows_lib.read_rows(path)] == [
      ('b', '2', '3'), ('b', '4', '5'), ('a', '6', '7')]


def test_time_counts_over_all_processes_of_a_run(tmp_path):
  for seconds in (10.0, 5.0):
    with spent.Clock(tmp_path) as clock:
      clock._start = tuple(start - seconds for start in clock._start)
  found = spent.read(tmp_path)
  assert 15 <= found['seconds'] < 25 and 15 <= found['cpu_seconds'] < 25


# Tuning


def _study(rates):
  system = study.System('a', {'kind': 'x'}, _tiny_config, (20,), (0, 1))
  variant = study.Variant([system], 10, rates)
  return study.Study('s', {'tiny': lambda: variant}, lambda row: (row['system'],),
                     lambda cells: '', lambda cells: {}), variant


@pytest.fixture
def trained(monkeypatch):
  """Training whose valid NLL is a function of the rate: least at 2e-3, diverged at 8e-3."""
  calls = []
  def train(config, workdir):
    rate = config.optimizer.learning_rate
    calls.append((rate, config.train.steps, config.train.seed))
    if rate >= 8e-3:
      raise Diverged('not finite')
    nll = 6 + abs(rate - 2e-3)
    return {'step': config.train.steps, 'valid_nll': nll, 'valid_nll_coarse': 1.0,
            'valid_nll_fine': nll - 1}
  monkeypatch.setattr(commands, 'train', train)
  return calls


def test_each_rate_is_tried_once_and_all_seeds_train_at_the_best(tmp_path, trained, monkeypatch):
  which, variant = _study((1e-3, 2e-3, 4e-3, 8e-3))
  monkeypatch.setattr(runs_lib, '_parameters', lambda folder: {'parameters': 1})
  def evaluate(folder, split):
    (tmp_path / 'RUNS' / 'runs' / folder.rsplit('/', 1)[1] / 'evaluation_test.json').write_text(
        json.dumps({'by_utterance': {'u': {'samples': 1, 'nats_coarse': 1, 'nats_fine': 5}}}))
    return {'nll': 6.0, 'nll_coarse': 1.0, 'nll_fine': 5.0, 'nll_interval': None}
  monkeypatch.setattr(commands, 'evaluate', evaluate)
  for _ in range(2):
    study.run(which, variant, tmp_path / 'rows', tmp_path / 'RUNS', 'DIR', command='do it')
  assert trained == [(rate, 10, 0) for rate in variant.rates] + [(2e-3, 20, 0), (2e-3, 20, 1)]
  rows = rows_lib.read_rows(tmp_path / 'rows' / 'runs.csv')
  assert [(row['name'], row['learning_rate'], row['command']) for row in rows] == [
      ('a_u20_s0', '0.002', 'do it'), ('a_u20_s1', '0.002', 'do it')]
  table = study.tuning_table(tmp_path / 'rows' / 'tuning.csv').splitlines()
  assert table[0] == '| system | updates | 0.001 | 0.002 | 0.004 | 0.008 |'
  assert table[2] == '| a | 10 | 6.001 | **6.000** | 6.002 | diverged |'
  rows_lib.replace_rows(tmp_path / 'rows' / 'tuning.csv', 'a_r0.004_u5', [
      {'name': 'a_r0.004_u5', 'system': 'a', 'updates': 5, 'learning_rate': 0.004, 'nll': 7}])
  table = study.tuning_table(tmp_path / 'rows' / 'tuning.csv').splitlines()
  assert table[2:] == ['| a | 5 |  |  | **7.000** |  |',
                       '| a | 10 | 6.001 | **6.000** | 6.002 | diverged |']


def test_rows_at_another_rate_than_the_tuned_one_are_refused(tmp_path, trained):
  which, variant = _study((1e-3, 2e-3))
  rows_lib.replace_rows(tmp_path / 'runs.csv', 'a_u20_s0',
                        [{'name': 'a_u20_s0', 'learning_rate': 0.001}])
  with pytest.raises(InputError, match='a_u20_s0 was trained at 0.001, but tuning.csv now'):
    study.run(which, variant, tmp_path, tmp_path / 'RUNS', 'DIR')


def test_a_rate_at_the_end_of_those_tried_is_told(tmp_path, trained):
  which, variant = _study((2e-3, 3e-3, 4e-3))
  rows_lib.replace_rows(tmp_path / 'runs.csv', 'a_u20_s0',
                        [{'name': 'a_u20_s0', 'learning_rate': 0.001}])
  with (pytest.warns(UserWarning, match='a is best at 0.002, an end of the rates'),
        pytest.raises(InputError)):
    study.run(which, variant, tmp_path, tmp_path / 'RUNS', 'DIR')


def test_a_system_that_diverges_at_every_rate_is_named(tmp_path, trained):
  which, variant = _study((8e-3, 1e-2))
  with pytest.raises(InputError, match='no learning rate of a gave a finite loss'):
    study.run(which, variant, tmp_path, tmp_path / 'RUNS', 'DIR')


# Studies


@pytest.mark.parametrize('which', STUDIES, ids=lambda s: s.name)
@pytest.mark.parametrize('size', ['full', 'tiny'])
def test_every_run_of_a_study_has_its_own_name_and_a_valid_config(which, size):
  variant = which.variant(size)
  rates = {system.name: variant.rates[0] for system in variant.systems}
  for runs in (study.tuning_runs(variant, 'DIR'), study.seed_runs(which, variant, rates, 'DIR')):
    assert len({run.name for run in runs}) == len(runs)
    assert len({run.config.train.batch * run.config.train.crop for run in runs}) == 1
    for run in runs:
      rules.check(run.config)


def test_the_study_of_prediction_is_the_one_that_is_asked_for():
  runs = study.seed_runs(prediction.STUDY, prediction.full(), {'none': 1e-3, 'spectral': 4e-3}, '')
  assert [(r.config.model.prediction, r.config.train.seed, r.config.optimizer.learning_rate)
          for r in runs] == [(p, seed, rate) for seed in (0, 1, 2)
                             for p, rate in (('none', 1e-3), ('spectral', 4e-3))]
  for config in (run.config for run in runs):
    model, train = config.model, config.train
    assert (model.kind, model.units, model.projection, model.channels) == ('wavernn', 128, 128, 64)
    assert (train.steps, train.batch, train.crop, train.burn_in) == (3_000, 4, 1_920, 240)
  assert len(study.tuning_runs(prediction.full(), '')) == 2 * 5


def test_other_variants_are_refused():
  with pytest.raises(InputError, match='--variant=huge: the study prediction has full, tiny'):
    prediction.STUDY.variant('huge')


@pytest.mark.parametrize('prediction', ['none', 'spectral'])
@pytest.mark.parametrize('block', ['16x1', '4x4 regrown', '1x1'])
def test_sparse_runs_of_a_budget_have_its_parameters(block, prediction):
  dense = 48, 48
  config = sparse_vs_dense.sparse_config(dense, (256, 64), block, prediction, 100)
  budget = sparse_vs_dense.budget_of(dense, prediction)
  model = models.build(config)
  state = step_lib.initial_state(model.init(0), config)
  masks = pruning.update_masks(state['params'], state['masks'],
                               config.pruning.start + config.pruning.steps, config.pruning)
  found = pruning.count_parameters(state['params'], masks)
  matrices = len(jax.tree.leaves(masks))
  size = np.prod(pruning.block_shape(config.pruning))
  assert abs(found - budget) <= matrices * size / 2 + 1  # each matrix is rounded to a block
  assert 0 < config.pruning.output == config.pruning.hidden < config.pruning.recurrent
  everything = state['params'] | {'recurrent': {}}
  assert sparse_vs_dense.unprunable(config) == sparse_vs_dense.size(everything) - sum(
      mask.size * size for mask in jax.tree.leaves(state['masks'] | {'recurrent': {}}))


def test_the_sparse_study_s_geometry_can_work():
  for system in sparse_vs_dense.full().systems:
    config, fields = system.configure(sparse_vs_dense.UPDATES), system.fields
    assert fields['unprunable'] <= 0.25 * fields['budget']
    if fields['block'] != 'dense':
      p = config.pruning
      assert p.start >= 1_000 and p.start + p.steps <= 0.75 * config.train.steps
      reads = config.model.units / p.block_outputs * (1 - p.recurrent)
      assert p.recurrent >= 0.96 and (reads > 2 or fields['block'] == '16x1')


def test_a_system_may_take_the_rate_of_another(tmp_path):
  first, second = (study.System(name, {}, _tiny_config, (20,), (0,), tuned_as=of)
                   for name, of in (('a', 'b'), ('b', '')))
  variant = study.Variant([first, second], 10, (1e-3, 2e-3, 4e-3))
  assert {run.fields['system'] for run in study.tuning_runs(variant, '')} == {'b'}
  for rate, nll in ((1e-3, 6.0), (2e-3, 5.0), (4e-3, 7.0)):
    rows_lib.replace_rows(tmp_path / 't.csv', str(rate), [
        {'name': rate, 'system': 'b', 'updates': 10, 'learning_rate': rate, 'nll': nll}])
  assert study.tuned_rates(tmp_path / 't.csv', variant) == {'a': 2e-3, 'b': 2e-3}


@pytest.mark.slow
@pytest.mark.parametrize('name', [which.name for which in STUDIES])
def test_a_study_runs_from_the_command_line(name, tmp_path):
  done = subprocess.run(
      [sys.executable, '-m', f'experiments.sweeps.{name}', '--do=run', '--variant=tiny',
       f'--data_dir={commands.DEMO_SPEECH}', f'--workdir={tmp_path}'],
      cwd=processes.ROOT, env=processes.environment(), capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  rows = rows_lib.read_rows(tmp_path / 'results' / 'runs.csv')
  assert json.loads(done.stdout.splitlines()[-1]) == {
      'study': name, 'rows': len(rows), 'results': str(tmp_path / 'results')}
  which = {s.name: s for s in STUDIES}[name]
  variant = which.variant('tiny')
  assert len(rows) == sum(len(s.seeds) for s in variant.systems)
  tuning = rows_lib.read_rows(tmp_path / 'results' / 'tuning.csv')
  for row in rows:
    (system,) = (s for s in variant.systems if s.name == row['system'])
    tried = {float(r['nll']): r['learning_rate'] for r in tuning
             if r['system'] == (system.tuned_as or system.name)}
    assert len(tried) == len(variant.rates) and row['learning_rate'] == tried[min(tried)]
    assert row['command'] == (f'python -m experiments.sweeps.{name} --do=run '
                              '--data_dir=demo_speech --variant=tiny')
  assert (tmp_path / 'results' / 'nll.png').exists()
