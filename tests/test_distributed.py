"""Two processes with jax.distributed on loopback: one run as of a single process."""

import dataclasses
import json
import time

import jax
import numpy as np
import processes
import pytest

from wavernn_jax import models
from wavernn_jax.errors import InputError
from wavernn_jax.training import checkpoints, journal, loop, step as step_lib, world

STEPS = 60


@pytest.fixture
def config(tiny_config):
  tiny_config.train = dataclasses.replace(
      tiny_config.train, steps=STEPS, eval_every=20, input_noise=0.05)
  tiny_config.evaluation.synthesize = 0
  return tiny_config


def curve(workdir):
  """The rows without the speed, which is nobody's to repeat."""
  return [{k: v for k, v in row.items() if k != 'samples_per_second'}
          for row in journal.read_rows(workdir / 'metrics.jsonl')]


def last_weights(workdir, config):
  like = step_lib.initial_state(models.build(config).init(0), config)
  state, position = checkpoints.Checkpoints(workdir, read_only=True).restore(like)
  assert position == {'batches': STEPS}
  return [np.asarray(x) for x in jax.tree.leaves(state['params'])]


def assert_same_run(a, b, config):
  """To float32 rounding, which 60 updates of Adam have carried on."""
  for x, y in zip(curve(a), curve(b), strict=True):
    assert x.keys() == y.keys()
    for name, value in x.items():
      assert value == pytest.approx(y[name], rel=1e-4 if name == 'gradient_norm' else 1e-5), name
  for x, y in zip(last_weights(a, config), last_weights(b, config), strict=True):
    np.testing.assert_allclose(x, y, atol=1e-4)


@pytest.mark.slow
def test_two_processes_train_as_one_and_go_on_after_one_was_killed(config, tmp_path):
  whole, torn = tmp_path / 'whole', tmp_path / 'torn'
  with processes.World(config, torn) as pair:
    pair.wait_for_step(14)
    pair.kill(1)
    since = time.monotonic()
    status, _, err = pair.end(0, 60)
    assert status == 2 and time.monotonic() - since < 60
    message = err[err.index('error: '):]
    assert 'process 0 of 2 lost another one' in message and 'same command' in message
    assert 'Traceback' not in err
  assert curve(torn)[-1]['step'] < STEPS - 6
  with processes.World(config, torn) as pair:
    assert pair.finish() == STEPS
  assert loop.train(config, whole) == STEPS
  assert_same_run(torn, whole, config)
  assert [row['step'] for row in curve(torn) if 'nll' in row] == list(range(2, STEPS + 1, 2))


def test_processes_that_disagree_say_in_what(config, tmp_path):
  flags = ((), ('--config.train.batch=8', '--config.data.workers=1'))
  with processes.World(config, tmp_path / 'run', flags=flags) as pair:
    for i in range(2):
      status, _, err = pair.end(i)
      assert status == 2
      message = err[err.index('error: '):]
      assert '--config.train.batch: 4 in process 0, 8 in process 1' in message
      assert 'workers' not in message and 'Traceback' not in err
  assert not (tmp_path / 'run').exists()


@pytest.mark.slow
def test_a_stop_of_one_stops_both_and_the_pair_is_bit_identical_to_an_undisturbed_one(
    config, tmp_path):
  whole, torn = tmp_path / 'whole', tmp_path / 'torn'
  with processes.World(config, whole) as pair:
    assert pair.finish() == STEPS
  with processes.World(config, torn) as pair:
    pair.wait_for_step(10)
    pair.processes[1].terminate()
    stopped = pair.finish()
  assert 10 <= stopped < STEPS
  assert json.loads((torn / 'checkpoints' / str(stopped) / 'data' / 'metadata').read_text()) == {
      'batches': stopped}
  with processes.World(config, torn) as pair:
    pair.wait_for_step(stopped + 4)
    pair.kill(0)  # the coordinator: JAX itself may be the first to end the other
    status, _, err = pair.end(1, 60)
    assert status != 0 and ('lost another one' in err or 'another task died' in err)
  with processes.World(config, torn) as pair:
    assert pair.finish() == STEPS
  assert curve(torn) == curve(whole)
  for x, y in zip(last_weights(torn, config), last_weights(whole, config), strict=True):
    np.testing.assert_array_equal(x, y)


@pytest.mark.slow
def test_a_process_that_is_frozen_is_given_up_within_a_minute(config, tmp_path):
  with processes.World(config, tmp_path / 'run') as pair:
    pair.wait_for_step(10)
    pair.processes[1].send_signal(19)  # SIGSTOP: its connections stay open
    status, _, err = pair.end(0, 60)
    assert status != 0 and 'another task died' in err


@pytest.mark.slow
def test_a_folder_in_use_and_other_audio_end_both_with_the_reason(
    config, tmp_path, corpus):
  run = tmp_path / 'run'
  run.mkdir()
  (run / 'thesis.tex').touch()
  other = tmp_path / 'other'
  other.mkdir()
  for split in ('train', 'valid', 'test'):
    (other / split).symlink_to(corpus / split)
  (other / 'train').unlink()
  (other / 'train').mkdir()
  for path in sorted((corpus / 'train').iterdir())[1:]:
    (other / 'train' / path.name).symlink_to(path)
  for workdir, flags, reason in (
      (run, ((), ()), "holds ['thesis.tex'] but no run.json"),
      (tmp_path / 'new', ((), (f'--config.data.dir={other}',)), 'other training audio')):
    with processes.World(config, workdir, flags=flags) as pair:
      for i in range(2):
        status, _, err = pair.end(i)
        assert status == 2 and reason in err, err


def test_a_folder_that_is_not_shared_is_named(tmp_path, monkeypatch):
  (tmp_path / 'run.json').touch()
  monkeypatch.setattr(world, 'gather', lambda mine: [mine, mine, 'missing'])
  with pytest.raises(InputError, match=f'{tmp_path}: process 2 does not see the run.json'):
    world.check_shared(tmp_path / 'run.json')
  monkeypatch.setattr(world, 'gather', lambda mine: [mine, mine])
  world.check_shared(tmp_path / 'run.json')


# Joining


@pytest.mark.parametrize(('flags', 'expected'), [
    (('localhost:1', None, None), '--num_processes and --process_id not set'),
    ((None, 2, 0), '--coordinator not set'),
    (('localhost', 2, 0), "found 'localhost', expected HOST:PORT"),
    (('localhost:1', 2, 2), r'found 2, expected 0..1')])
def test_flags_that_do_not_fit_together_are_named(flags, expected, monkeypatch):
  monkeypatch.setattr(jax.distributed, 'initialize', lambda **_: pytest.fail('joined'))
  with pytest.raises(InputError, match=expected):
    world.join(*flags)


@pytest.mark.parametrize(('variables', 'joins'), [
    ({}, False),
    ({'SLURM_STEP_NODELIST': 'a[1-2]', 'SLURM_NTASKS': '1'}, False),
    ({'SLURM_NTASKS': '4'}, False),  # the batch script itself, outside srun
    ({'SLURM_STEP_NODELIST': 'a[1-2]', 'SLURM_NTASKS': '4'}, True),
    ({'OMPI_COMM_WORLD_SIZE': '2'}, True),
    ({'TPU_WORKER_HOSTNAMES': 'localhost'}, False),
    ({'TPU_WORKER_HOSTNAMES': 'a,b'}, True),
    ({'MEGASCALE_NUM_SLICES': '2'}, True)])
def test_a_cluster_is_joined_only_where_there_are_several_tasks(variables, joins, monkeypatch):
  for name in ('SLURM_STEP_NODELIST', 'SLURM_NTASKS', 'OMPI_COMM_WORLD_SIZE',
               'TPU_WORKER_HOSTNAMES', 'TPU_PROCESS_ADDRESSES', 'MEGASCALE_NUM_SLICES'):
    monkeypatch.delenv(name, raising=False)
  for name, value in variables.items():
    monkeypatch.setenv(name, value)
  calls = []
  monkeypatch.setattr(jax.distributed, 'initialize', lambda **given: calls.append(given))
  monkeypatch.setattr(world, 'gather', lambda text: [text])
  monkeypatch.setattr('sys.excepthook', lambda *_: None)
  world.join()
  assert [set(given) for given in calls] == [{'heartbeat_timeout_seconds'}] * joins


def test_a_cluster_that_cannot_be_joined_is_a_clear_error(monkeypatch):
  monkeypatch.setenv('OMPI_COMM_WORLD_SIZE', '2')
  monkeypatch.delenv('OMPI_MCA_orte_hnp_uri', raising=False)
  with pytest.raises(InputError, match='the cluster environment: the world could not be joined'):
    world.join()
