"""Checkpoints: what is restored is what was saved, whatever happens meanwhile."""

import json
import pathlib
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wavernn_jax import models
from wavernn_jax.errors import InputError
from wavernn_jax.training import checkpoints, seals, step as step_lib, workdir as workdir_lib


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


def test_what_a_kill_left_of_a_save_is_gone_before_the_next_one_of_that_step(
    tmp_path, tiny_config, state):
  saved = checkpoints.Checkpoints(tmp_path)
  saved.save(at(state, 1), {'batches': 1}, tiny_config)
  saved.close()
  for i in range(20):  # so many files that removing them takes longer than what comes next
    torn = tmp_path / 'checkpoints' / '2.orbax-checkpoint-tmp' / f'{i}.orbax-checkpoint-tmp'
    torn.mkdir(parents=True)
    for j in range(100):
      (torn / str(j)).touch()
  saved = checkpoints.Checkpoints(tmp_path)
  assert not (tmp_path / 'checkpoints' / '2.orbax-checkpoint-tmp').exists()
  restored, _ = saved.resume(state)
  saved.save(at(restored, 2), {'batches': 2}, tiny_config)
  saved.close()
  assert_same(checkpoints.Checkpoints(tmp_path).restore(state)[0], at(restored, 2))


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


# Damage


def saved_twice(workdir, config, state, steps=(1, 2)):
  workdir_lib.claim(workdir, config, 'corpus').close()
  saved = checkpoints.Checkpoints(workdir)
  for step in steps:
    saved.save(at(state, step, 1 + step), {'batches': step}, config)
  saved.close()
  return workdir / 'checkpoints'


def all_files(folder):
  return sorted(p for p in folder.rglob('*') if p.is_file())


def test_every_complete_checkpoint_is_sealed(tmp_path, tiny_config, state):
  folder = saved_twice(tmp_path, tiny_config, state)
  for step in ('1', '2'):
    listed = json.loads((folder / step / 'seal').read_text().split('\n')[1])
    assert set(listed) == {p.relative_to(folder / step).as_posix()
                           for p in all_files(folder / step)} - {'seal'}
    assert seals.damage(folder / step) == ''


def test_one_flipped_bit_or_a_cut_anywhere_is_noticed(tmp_path, tiny_config, state):
  folder = saved_twice(tmp_path, tiny_config, state, (1,)) / '1'
  rng = np.random.default_rng(0)
  for path in all_files(folder):
    whole = path.read_bytes()
    for place in rng.integers(8 * len(whole), size=12):
      changed = bytearray(whole)
      changed[place // 8] ^= 1 << place % 8
      path.write_bytes(changed)
      assert path.name in seals.damage(folder), place
    for length in rng.integers(len(whole), size=3):
      path.write_bytes(whole[:length])
      assert path.name in seals.damage(folder), length
    path.write_bytes(whole)
  assert seals.damage(folder) == ''


@pytest.mark.parametrize('damaged', ['flipped', 'cut', 'gone'])
def test_a_damaged_checkpoint_is_left_out_for_the_newest_intact_one(
    tmp_path, tiny_config, state, damaged):
  folder = saved_twice(tmp_path, tiny_config, state)
  path = max(all_files(folder / '2'), key=lambda p: p.stat().st_size)  # the weights
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 4
  path.write_bytes(data if damaged == 'flipped' else data[:-9])
  if damaged == 'gone':
    path.unlink()
  with pytest.warns(UserWarning, match=r'checkpoints/2: is damaged \(.*step 1 takes its place'):
    assert_same(checkpoints.load(tmp_path).params, at(state, 1, 2)['ema'])
  with pytest.warns(UserWarning, match='step 1 takes its place'):
    assert checkpoints.load(tmp_path).identity.startswith('1:')
  assert steps_on_disk(tmp_path) == [1, 2]  # readers leave everything as it is
  writer = checkpoints.Checkpoints(tmp_path)
  with pytest.warns(UserWarning, match='step 1 takes its place'):
    restored, position = writer.resume(state)
  assert position == {'batches': 1} and int(restored['step']) == 1
  writer.save(at(state, 2, 9), {'batches': 2}, tiny_config)  # the step can be saved again
  writer.close()
  assert_same(checkpoints.load(tmp_path).params, at(state, 2, 9)['ema'])
  assert [p.name for p in (tmp_path / 'damaged').iterdir()] == ['2.0']


def test_a_run_of_damaged_checkpoints_alone_is_one_clear_error(tmp_path, tiny_config, state):
  folder = saved_twice(tmp_path, tiny_config, state)
  for step in ('1', '2'):
    path = folder / step / 'state' / 'manifest.ocdbt'
    path.write_bytes(path.read_bytes()[:-1])
  for read in (checkpoints.load,
               lambda w: checkpoints.Checkpoints(w).resume(state)):
    with pytest.raises(InputError, match=r'(?s)all 2 checkpoints are damaged:.*manifest\.ocdbt '
                       r'has \d+ bytes, \d+ were written.*Restore'):
      read(tmp_path)
  assert steps_on_disk(tmp_path) == [1, 2]


@pytest.mark.parametrize('text', [b'\x94', b'{"valid_nll": "x"}', b'{"valid_nll": 1.0}'])
def test_a_damaged_likelihood_is_a_damaged_checkpoint(tmp_path, tiny_config, state, text):
  """Of the newest, and of an older one, which then is not taken for the best."""
  workdir_lib.claim(tmp_path, tiny_config, 'corpus').close()
  saved = checkpoints.Checkpoints(tmp_path)
  for step, nll in ((1, 3.0), (2, 4.0), (3, 2.0)):
    saved.save(at(state, step, 1 + step), {'batches': step}, tiny_config, nll)
  saved.close()
  for step in '13':
    (tmp_path / 'checkpoints' / step / 'metrics' / 'metrics').write_bytes(text)
  with warnings.catch_warnings(record=True):
    assert_same(checkpoints.load(tmp_path).params, at(state, 2, 3)['ema'])
  writer = checkpoints.Checkpoints(tmp_path)
  with pytest.warns(UserWarning, match='checkpoints/1: is damaged .*was moved'):
    with pytest.warns(UserWarning, match='checkpoints/3: is damaged .*step 2 takes its place'):
      assert writer.resume(state)[1] == {'batches': 2}
  assert steps_on_disk(tmp_path) == [2]
  assert (writer.latest(), writer.best()) == (2, 2) and not writer.evaluated(1)
  writer.save(at(state, 3, 9), {'batches': 3}, tiny_config, 5.0)
  writer.close()
  assert_same(checkpoints.load(tmp_path).params, at(state, 2, 3)['ema'])


def test_a_checkpoint_of_before_there_were_seals_is_read(tmp_path, tiny_config, state):
  folder = saved_twice(tmp_path, tiny_config, state, (1,))
  (folder / '1' / 'seal').unlink()
  assert_same(checkpoints.load(tmp_path).params, at(state, 1, 2)['ema'])
  for path in all_files(folder / '1' / 'state'):
    path.write_bytes(path.read_bytes()[:-20])
  with pytest.raises(InputError, match=f'{folder}/1: cannot be read .*remove this folder'):
    checkpoints.load(tmp_path)


def test_a_checkpoint_that_was_being_replaced_by_a_killed_process_is_put_back(
    tmp_path, tiny_config, state):
  folder = saved_twice(tmp_path, tiny_config, state)
  (tmp_path / 'replaced').mkdir()
  (folder / '2').rename(tmp_path / 'replaced' / '2')
  again = checkpoints.Checkpoints(tmp_path)
  assert again.latest() == 2 and not (tmp_path / 'replaced').exists()
  again.save(at(state, 2, 5), {'batches': 2}, tiny_config, 4.0)  # its NLL came later
  again.close()
  assert_same(checkpoints.load(tmp_path).params, at(state, 2, 5)['ema'])
  assert not (tmp_path / 'replaced').exists()


# Full disks


_FULL_DISK = '''
import resource, sys
import jax.numpy as jnp, numpy as np
from wavernn_jax import models
from wavernn_jax.config import Config, ModelConfig
from wavernn_jax.errors import InputError
from wavernn_jax.training import checkpoints, step

config = Config(model=ModelConfig(units=16, projection=16, channels=8, layers=1))
state = step.initial_state(models.build(config).init(0), config)
if len(sys.argv) > 2:
  again = checkpoints.Checkpoints(sys.argv[1], keep=1)
  restored, position = again.restore(state)
  print('RESTORED', int(restored['step']), position)
  again.save(state | {'step': jnp.int32(2)}, {'batches': 22}, config, 4.0)
  again.close()
  print('LATEST', checkpoints.Checkpoints(sys.argv[1], read_only=True).latest())
  sys.exit()
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
'''


def test_a_full_disk_is_one_clear_error_and_the_previous_checkpoint_survives(tmp_path):
  """The same command again, in a process of its own: writes of the first may go on in it."""
  lines = []
  for arguments in ([tmp_path], [tmp_path, 'again']):
    result = subprocess.run(
        [sys.executable, '-c', _FULL_DISK, *arguments], capture_output=True, text=True,
        cwd=pathlib.Path(__file__).parent.parent)
    assert result.returncode == 0, result.stderr
    lines += result.stdout.strip().splitlines()
  error, restored, latest = lines
  assert error.startswith(f'ERROR {tmp_path}/checkpoints: ')
  assert 'File too large' in error and 'last complete checkpoint is of step 1' in error
  assert restored == "RESTORED 1 {'batches': 11}"
  assert latest == 'LATEST 2'
