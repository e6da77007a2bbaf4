"""Eight devices of one process against one: the same curve, weights and checkpoints.

XLA splits a CPU into devices only at its start, so they are a new Python's.
"""

import dataclasses
import functools
import json
import signal
import subprocess
import sys

import jax
import numpy as np
import processes
import pytest

from wavernn_jax import check, config as config_lib, models
from wavernn_jax.data import crops
from wavernn_jax.errors import InputError
from wavernn_jax.training import checkpoints, journal, loop, run as run_lib, step as step_lib, world

DEVICES = 8
STEPS = 20

_TRAIN = '''
import json, signal, sys
import jax, numpy as np
from wavernn_jax import config as config_lib
from wavernn_jax.training import loop, run as run_lib

def compared(run):
  if not programs:
    batch = next(run.batches)
    run.batches.set_state({'batches': run.step})
    batch = jax.device_put(batch, run._split)
    programs.append(run.train_step.lower(run.state, batch).compile().as_text())
    # Devices exchange gradients and nothing else: no one works for another.
    assert programs[0].count(' all-reduce(') and not programs[0].count('all-gather(')
  metrics = update(run)
  for leaf in jax.tree.leaves(run.state):
    first, *others = (np.asarray(s.data).tobytes() for s in leaf.addressable_shards)
    assert len(others) == jax.device_count() - 1 and all(o == first for o in others), run.step
  if run.step == int(sys.argv[2]):
    signal.raise_signal(signal.SIGTERM)
  return metrics

programs = []
update, run_lib.Run.update = run_lib.Run.update, compared
config = config_lib.from_dict(json.loads(sys.argv[1]))
for workdir in sys.argv[3:]:
  print('STEP', loop.train(config, workdir), jax.device_count())
'''


@pytest.fixture
def config(tiny_config):
  """One in which everything that could depend on the devices is switched on."""
  tiny_config.train = dataclasses.replace(
      tiny_config.train, steps=STEPS, batch=16, log_every=1, eval_every=10, save_every=20,
      input_noise=0.05)
  tiny_config.pruning = config_lib.PruningConfig(
      recurrent=0.5, output=0.5, block_outputs=8, start=3, steps=12, interval=2)
  tiny_config.evaluation.synthesize = 0
  return tiny_config


@pytest.fixture(scope='module')
def on_eight():
  """The output of a Python whose CPU is eight devices."""
  environment = processes.environment(DEVICES)

  def run(script, *args):
    result = subprocess.run(
        [sys.executable, '-c', script, *map(str, args)], env=environment, cwd=processes.ROOT,
        capture_output=True, text=True, timeout=4 * processes.SECONDS)
    assert result.returncode == 0, result.stderr
    return result.stdout
  return run


def curve(workdir, name):
  return [row[name] for row in journal.read_rows(workdir / 'metrics.jsonl') if name in row]


def last_state(workdir, config):
  like = step_lib.initial_state(models.build(config).init(0), config)
  return checkpoints.Checkpoints(workdir, read_only=True).restore(like)[0]


def assert_same_run(a, b, config):
  """The same curve and weights to float32 rounding."""
  for name in ('nll', 'nll_coarse', 'gradient_norm', 'valid_nll'):
    np.testing.assert_allclose(curve(a, name), curve(b, name), rtol=3e-6, err_msg=name)
  first, second = last_state(a, config), last_state(b, config)
  for kind in ('params', 'ema'):
    for x, y in zip(jax.tree.leaves(first[kind]), jax.tree.leaves(second[kind]), strict=True):
      np.testing.assert_allclose(x, y, atol=1e-5)
  for x, y in zip(*(jax.tree.leaves(s['masks']) for s in (first, second)), strict=True):
    np.testing.assert_array_equal(x, y)
    assert not np.asarray(x).all()


def stop_at(monkeypatch, step):
  update = run_lib.Run.update
  def stopping(run):
    metrics = update(run)
    if run.step == step:
      signal.raise_signal(signal.SIGTERM)
    return metrics
  monkeypatch.setattr(run_lib.Run, 'update', stopping)


@pytest.mark.slow
def test_eight_devices_give_the_run_of_one(config, tmp_path, on_eight):
  one, eight = tmp_path / 'one', tmp_path / 'eight'
  assert f'STEP {STEPS} {DEVICES}' in on_eight(_TRAIN, processes.as_argument(config), -1, eight)
  assert loop.train(config, one) == STEPS
  assert_same_run(one, eight, config)


@pytest.mark.slow
def test_a_run_moves_between_eight_devices_and_one(config, tmp_path, monkeypatch, on_eight):
  one, moved = tmp_path / 'one', tmp_path / 'moved'
  assert loop.train(config, one) == STEPS
  assert 'STEP 7 ' in on_eight(_TRAIN, processes.as_argument(config), 7, moved)
  with monkeypatch.context() as patch:
    stop_at(patch, 13)
    assert loop.train(config, moved) == 13
  assert f'STEP {STEPS} ' in on_eight(_TRAIN, processes.as_argument(config), -1, moved)
  assert_same_run(one, moved, config)


_STEPS = '''
import functools, json, sys
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from wavernn_jax import backend, check, config as config_lib, models
from wavernn_jax.data import crops
from wavernn_jax.training import step as step_lib

def after(config, devices, steps=3):
  model = models.build(config)
  mesh = Mesh(np.array(jax.devices()[:devices]), ('data',))
  replicated, split = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ('data',)))
  crop = config.train.crop
  shape = crops.CropShape(crop, model.frames(crop), model.timing.margin)
  batches = crops.crop_batches(check.load_corpus(config)[0], shape, config.mel,
                              config.train.batch, 0)
  state = jax.device_put(step_lib.initial_state(model.init(0), config), replicated)
  step = functools.partial(step_lib.train_step, model, config, mesh=mesh if devices > 1 else None)
  step = backend.jit(step, out_shardings=replicated)
  for _ in range(steps):
    state, metrics = step(state, jax.device_put(next(batches), split))
  return float(metrics['nll']), jax.tree.map(np.asarray, state['params'])

config = config_lib.from_dict(json.loads(sys.argv[1]))
whole_nll, whole = after(config, 1)
config.train.accumulate = 2
config.model.compute_dtype = sys.argv[2]
nll, params = after(config, 8)
print(json.dumps({'nll': [whole_nll, nll], 'params': max(
    float(abs(a - b).max()) for a, b in zip(*map(jax.tree.leaves, (whole, params))))}))
'''


@pytest.mark.slow
@pytest.mark.parametrize(('dtype', 'rtol', 'atol'), [
    ('float32', 3e-6, 2e-5), ('bfloat16', 2e-3, 2e-3)])
def test_micro_batches_on_eight_devices_give_the_whole_batch_on_one(
    config, dtype, rtol, atol, on_eight):
  found = json.loads(on_eight(_STEPS, processes.as_argument(config), dtype))
  assert found['nll'][1] == pytest.approx(found['nll'][0], rel=rtol)
  assert found['params'] < atol
  assert (found['nll'][1] != found['nll'][0]) or dtype == 'float32'  # bfloat16 was used


def test_micro_batches_give_the_gradient_of_the_whole_batch(config):
  """One device; with the noise that every crop has as part of the whole batch."""
  train_set, _ = check.load_corpus(config)
  model, crop = models.build(config), config.train.crop
  shape = crops.CropShape(crop, model.frames(crop), model.timing.margin)
  batch = next(crops.crop_batches(train_set, shape, config.mel, 16, 0))
  batch['noise'] = step_lib.input_noise(jax.random.key(1), 16, config)
  loss = jax.value_and_grad(
      lambda params, crops: step_lib.crop_loss(model, params, crops, config), has_aux=True)
  loss = functools.partial(loss, model.init(0))
  whole = jax.jit(loss)(batch)
  parts = jax.jit(lambda b: step_lib.accumulated(loss, b, 4))(batch)
  assert jax.tree.structure(whole) == jax.tree.structure(parts)
  for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
    np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(('devices', 'accumulate', 'batch', 'expected'), [
    (8, 1, 12, 'found 12, expected a multiple of 8: 8 devices'),
    (8, 2, 24, r'found 24, expected a multiple of 16: 8 devices × 2 micro-batches'),
    (1, 4, 6, 'accumulate: found 4, expected a divisor of train.batch = 6'),
    (1, 0, 6, 'accumulate: found 0, expected 1 to 65,536')])
def test_a_batch_that_cannot_be_split_is_named_with_its_parts(
    config, monkeypatch, tmp_path, devices, accumulate, batch, expected):
  for count in ('device_count', 'local_device_count'):
    monkeypatch.setattr(jax, count, lambda: devices)
  config.train.batch, config.train.accumulate = batch, accumulate
  with pytest.raises(InputError, match=expected):
    loop.train(config, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


def test_processes_with_unequal_devices_are_refused(config, monkeypatch):
  monkeypatch.setattr(jax, 'device_count', lambda: 3)
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  with pytest.raises(InputError, match='process 0 has 1 of 3 devices in 2 processes'):
    world.check_devices(config)
