"""A sparse run from end to end: trained, stopped, resumed, evaluated, exported, spoken."""

import signal
import types

import jax
import numpy as np
import pytest

from experiments.configs import sparse
from wavernn_jax import audio, commands, models, pruning
from wavernn_jax.errors import InputError
from wavernn_jax.sampling import blocksparse, export as export_lib
from wavernn_jax.training import checkpoints, run as run_lib, step as step_lib

STOP = 7  # in the middle of pruning, between two updates of the masks


def tiny():
  config = sparse.get_config('tiny')
  config.data.dir = str(commands.DEMO_SPEECH)
  config.train.log_every = 1
  config.evaluation.synthesize = config.evaluation.free_running = 0
  config.evaluation.max_valid_utterances = 1
  return config


def last_state(workdir):
  like = step_lib.initial_state(models.build(tiny()).init(0), tiny())
  return checkpoints.Checkpoints(workdir, read_only=True).restore(like)[0]


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  """Folders of a whole and of a stopped and resumed run; traces and masks of the whole."""
  seen = types.SimpleNamespace(traces=0, masks={})
  folder = tmp_path_factory.mktemp('sparse')
  log, train_step = run_lib.Run.log, step_lib.train_step

  def traced(*args, **kwargs):
    seen.traces += 1
    return train_step(*args, **kwargs)

  def record(run, metrics):
    seen.masks[run.step - 1] = jax.tree.map(np.asarray, run.state['masks'])
    log(run, metrics)

  def stop(run, metrics):
    log(run, metrics)
    if run.step == STOP:
      signal.raise_signal(signal.SIGTERM)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(step_lib, 'train_step', traced)
    patch.setattr(run_lib.Run, 'log', record)
    steps = commands.train(tiny(), str(folder / 'whole'))['step']
    patch.setattr(run_lib.Run, 'log', stop)
    seen.whole_traces = seen.traces
    assert commands.train(tiny(), str(folder / 'torn'))['step'] == STOP
    assert commands.train(tiny(), str(folder / 'torn'))['step'] == steps == tiny().train.steps
  seen.whole, seen.torn = folder / 'whole', folder / 'torn'
  return seen


def test_stopped_and_resumed_is_the_same_run_with_the_same_masks(runs):
  whole, torn = last_state(runs.whole), last_state(runs.torn)
  for part in ('params', 'ema', 'masks', 'optimizer'):
    jax.tree.map(np.testing.assert_array_equal, whole[part], torn[part])
  assert not all(mask.all() for mask in jax.tree.leaves(whole['masks']))


def test_masks_follow_the_schedule_without_compiling_anew(runs):
  config = tiny().pruning
  assert runs.whole_traces == 1 and sorted(runs.masks) == list(range(tiny().train.steps))
  targets = pruning.targets(last_state(runs.whole)['params'], config)
  sparsities = [z for z in jax.tree.leaves(targets) if z is not None]
  assert sparsities == [0.5] * 5 + [0.75] * 3
  for step, masks in runs.masks.items():
    due = [t for t in range(step + 1) if t >= config.start and t % config.interval == 0]
    progress = min(1.0, max(0.0, (due[-1] - config.start) / config.steps)) if due else 0.0
    fraction = 1 - (1 - progress) ** 3
    for mask, sparsity in zip(jax.tree.leaves(masks), sparsities, strict=True):
      final = round(sparsity * mask.size)
      assert abs((~mask).sum() - final * fraction) <= 0.5 + 1e-3 * final, (step, mask.shape)
  final = jax.tree.leaves(runs.masks[tiny().train.steps - 1])
  assert [1 - m.mean() for m in final] == sparsities


def test_pruned_weights_are_exactly_zero_everywhere(runs, tmp_path):
  state = last_state(runs.whole)
  exported = tmp_path / 'model.safetensors'
  commands.export(str(runs.whole), str(exported), 'float32', sparse_only=True)
  stored = export_lib.read(exported).packed
  packed = {name: t for name, t in stored.tensors.items() if export_lib.is_packed(t)}
  masks = export_lib.flatten(state['masks'])
  assert set(packed) == {name for name, mask in masks.items() if mask is not None}
  for name, matrix in packed.items():
    pruned = ~np.repeat(np.asarray(masks[name]), tiny().pruning.block_outputs, axis=1)
    assert 0.4 < pruned.mean() < 0.8
    for tree in (state['params'], state['ema']):
      leaf = np.asarray(export_lib.flatten(tree)[name])
      assert (leaf[pruned] == 0).all() and (leaf[~pruned] != 0).all()
    np.testing.assert_array_equal(blocksparse.unpack(matrix).T, leaf)
    assert matrix.blocks == masks[name].sum()
  assert stored.parameters == pruning.count_parameters(state['ema'], state['masks'])


def test_an_export_is_evaluated_by_either_engine_and_spoken(runs, tmp_path):
  run = commands.evaluate(str(runs.whole))
  nll = {}
  for weights in blocksparse.DTYPES:
    path = str(tmp_path / f'{weights}.safetensors')
    commands.export(str(runs.whole), path, weights)
    for engine in ('cpu', 'scan') if weights == 'int8' else ('auto',):
      found = commands.evaluate('', data_dir=str(commands.DEMO_SPEECH), model=path, engine=engine)
      engine = found['engine']
      assert found['weights'] == weights
      assert found['samples'] == run['samples'] and found['baselines'] == run['baselines']
      nll[weights, engine] = found['nll']
      assert found['nll_coarse'] + found['nll_fine'] == pytest.approx(found['nll'])
  for (weights, _), value in nll.items():
    error = {'float32': 1e-4, 'bfloat16': 5e-3, 'int8': 0.02}[weights]
    assert value == pytest.approx(run['nll'], abs=error)
  assert set(nll) == {(w, 'cpu') for w in blocksparse.DTYPES} | {('int8', 'scan')}
  assert nll['int8', 'cpu'] != nll['float32', 'cpu']
  speech = tmp_path / 'in'
  speech.mkdir()
  audio.write_wav(speech / 'a.wav', (3000 * np.sin(np.arange(4_800) / 20)).astype(np.int16), 24_000)
  spoken = commands.synthesize('', str(speech), str(tmp_path / 'out'),
                               model=str(tmp_path / 'int8.safetensors'))
  assert spoken['engine'] == 'cpu'
  assert len(audio.read_audio(tmp_path / 'out' / 'a.wav', 24_000)) == 4_800


def test_evaluation_says_what_an_export_lacks(runs, tmp_path):
  path = str(tmp_path / 'model.safetensors')
  commands.export(str(runs.whole), path)
  with pytest.raises(InputError, match='--data_dir is not set'):
    commands.evaluate('', model=path)
  with pytest.raises(InputError, match='--engine=cpu evaluates exports'):
    commands.evaluate(str(runs.whole), engine='cpu')


def test_variants():
  paper = sparse.get_config('paper')
  assert (paper.pruning.start, paper.pruning.steps, paper.pruning.interval) == (
      1_000, 200_000, 500)  # the paper's
  with pytest.raises(InputError, match='huge'):
    sparse.get_config('huge')
