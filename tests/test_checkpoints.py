"""Checkpoints: what is restored is what was saved, whatever happens meanwhile."""

import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wavernn_jax import models
from wavernn_jax.errors import InputError
from wavernn_jax.training import checkpoints, step as step_lib, workdir as workdir_lib


@pytest.fixture
def state(tiny_config):
  return step_lib.initial_state(models.build(tiny_config).init(0), tiny_config)


def at(state, step, scale=1.0):
  """A state told from others by its step and the size of its weights."""
  scaled = {k: jax.tree.map(lambda x: x * np.float32(scale), state[k]) for k in ('params', 'ema')}
  return state | scaled | {'step': jnp.int32(step)}


def assert_same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    assert x.dtype == y.dtype
    np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def steps_on_disk(workdir):
  return sorted(int(p.name) for p in (workdir / 'checkpoints').iterdir() if p.name.isdigit())


def test_restore_gives_every_bit_that_was_saved(tmp_path, tiny_config, state):
  noise = np.random.default_rng(0)
  state = jax.tree.map(
      lambda x: jnp.asarray(noise.normal(size=x.shape) * 100).astype(x.dtype), state)
  state['step'] = jnp.int32(7)
  saved = checkpoints.Checkpoints(tmp_path)
  assert saved.latest() is None and saved.best() is None
  saved.save(state, {'batches': 12}, tiny_config)
  saved.close()
  like = step_lib.initial_state(models.build(tiny_config).init(1), tiny_config)
  restored, position = checkpoints.Checkpoints(tmp_path).restore(like)
  assert_same(restored, state)
  assert position == {'batches': 12}
  assert jax.tree.leaves(restored['masks'], is_leaf=lambda x: x is None) == [None] * len(
      jax.tree.leaves(state['params']))


def test_steps_that_reuse_the_buffers_do_not_change_what_is_written(
    tmp_path, tiny_config, state):
  state = jax.device_put(state)
  expected = jax.tree.map(lambda x: np.array(x, copy=True), state)
  scramble = jax.jit(lambda s: jax.tree.map(lambda x: -x - 1, s), donate_argnums=0)
  saved = checkpoints.Checkpoints(tmp_path)
  saved.save(state, {'batches': 0}, tiny_config)
  for _ in range(50):
    state = scramble(state)
  jax.block_until_ready(state)
  saved.wait()
  assert_same(saved.restore(state)[0], expected)
  saved.close()


def test_the_last_few_and_the_best_are_kept(tmp_path, tiny_config, state):
  saved = checkpoints.Checkpoints(tmp_path, keep=2)
  for step, nll in ((1, 9.0), (2, 3.0), (3, None), (4, 5.0), (5, None), (6, 4.0), (7, None)):
    saved.save(at(state, step, 1 + step), {'batches': step}, tiny_config, nll)
  saved.wait()
  assert steps_on_disk(tmp_path) == [2, 6, 7]
  assert (saved.best(), saved.latest()) == (2, 7)
  saved.close()
  again = checkpoints.Checkpoints(tmp_path, keep=2)  # metrics are read back
  assert (again.best(), again.latest()) == (2, 7)
  again.save(at(state, 8), {'batches': 8}, tiny_config, 2.5)
  again.wait()
  assert steps_on_disk(tmp_path) == [7, 8] and again.best() == 8
  again.close()


def test_what_a_killed_save_left_is_no_checkpoint_and_is_removed(tmp_path, tiny_config, state):
  saved = checkpoints.Checkpoints(tmp_path)
  saved.save(at(state, 1), {'batches': 1}, tiny_config)
  saved.close()
  half = tmp_path / 'checkpoints' / '2.orbax-checkpoint-tmp' / 'state.orbax-checkpoint-tmp'
  half.mkdir(parents=True)
  reader = checkpoints.Checkpoints(tmp_path, read_only=True)
  assert reader.latest() == 1 and half.exists()  # it may be a save that is under way
  writer = checkpoints.Checkpoints(tmp_path)
  assert writer.latest() == 1
  writer.save(at(state, 3), {'batches': 3}, tiny_config)
  writer.close()
  assert not half.exists() and steps_on_disk(tmp_path) == [1, 3]


def test_the_voice_of_a_run_is_the_ema_of_the_best_checkpoint(tmp_path, tiny_config, state):
  workdir_lib.claim(tmp_path, tiny_config, 'corpus').close()
  with pytest.raises(InputError, match='no complete checkpoint'):
    checkpoints.load(tmp_path)
  saved = checkpoints.Checkpoints(tmp_path)
  saved.save(at(state, 1, 3), {'batches': 1}, tiny_config)
  saved.wait()
  first = checkpoints.load(tmp_path)
  assert_same(first.params, at(state, 1, 3)['ema'])  # none evaluated
  best = at(state, 2, 5) | {'ema': jax.tree.map(lambda x: x + 1, state['ema'])}
  saved.save(best, {'batches': 2}, tiny_config, 4.0)
  saved.save(at(state, 3, 7), {'batches': 3}, tiny_config, 6.0)
  saved.save(at(state, 4, 8), {'batches': 4}, tiny_config)
  saved.close()
  voice = checkpoints.load(tmp_path)
  assert_same(voice.params, best['ema'])
  assert_same(voice.masks, best['masks'])
  assert voice.identity != first.identity and voice.packed is None


def test_weights_of_another_config_are_rejected_by_field(tmp_path, tiny_config):
  with pytest.raises(InputError, match='holds no run'):
    checkpoints.load(tmp_path)
  workdir_lib.claim(tmp_path, tiny_config, 'corpus').close()
  tiny_config.model.units, tiny_config.mel.fmin = 32, 80.0
  tiny_config.train.batch = 99  # matters to no weight
  with pytest.raises(InputError) as error:
    checkpoints.load(tmp_path, tiny_config)
  assert '--config.model.units: 16 there, 32 here' in str(error.value)
  assert '--config.mel.fmin: 40.0 there, 80.0 here' in str(error.value)
  assert 'batch' not in str(error.value)


_FULL_DISK = '''
import resource, sys
import jax.numpy as jnp, numpy as np
from wavernn_jax import models
from wavernn_jax.config import Config, ModelConfig
from wavernn_jax.errors import InputError
from wavernn_jax.training import checkpoints, step

config = Config(model=ModelConfig(units=16, projection=16, channels=8, layers=1))
state = step.initial_state(models.build(config).init(0), config)
saved = checkpoints.Checkpoints(sys.argv[1], keep=1)
saved.save(state | {'step': jnp.int32(1)}, {'batches': 11}, config, 5.0)
saved.wait()
limits = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # files end there: EFBIG
try:
  saved.save(state | {'step': jnp.int32(2)}, {'batches': 22}, config, 4.0)
  saved.wait()
except InputError as error:
  print('ERROR', error)
saved.close()
resource.setrlimit(resource.RLIMIT_FSIZE, limits)
again = checkpoints.Checkpoints(sys.argv[1], keep=1)
restored, position = again.restore(state)
print('RESTORED', int(restored['step']), position)
again.save(state | {'step': jnp.int32(2)}, {'batches': 22}, config, 4.0)
again.close()
print('LATEST', checkpoints.Checkpoints(sys.argv[1], read_only=True).latest())
'''


def test_a_full_disk_is_one_clear_error_and_the_previous_checkpoint_survives(tmp_path):
  result = subprocess.run(
      [sys.executable, '-c', _FULL_DISK, tmp_path], capture_output=True, text=True,
      cwd=pathlib.Path(__file__).parent.parent)
  assert result.returncode == 0, result.stderr
  error, restored, latest = result.stdout.strip().splitlines()
  assert error.startswith(f'ERROR {tmp_path}/checkpoints: ')
  assert 'File too large' in error and 'last complete checkpoint is of step 1' in error
  assert restored == "RESTORED 1 {'batches': 11}"
  assert latest == 'LATEST 2'
