"""Processes killed at random moments, in the middle of saves too: nothing is lost."""

import dataclasses
import json
import time

import attacks
import jax
import numpy as np
from processes_to_kill import Zygote
import pytest
from random_models import log_mel

from wavernn_jax import config as config_lib, models
from wavernn_jax.training import checkpoints, journal, step as step_lib


@pytest.fixture(scope='module')
def zygote(tmp_path_factory):
  with Zygote(tmp_path_factory.mktemp('zygote') / 'log', 'test_executors') as running:
    yield running


def _well(ended: tuple[str, str], outcome='ended') -> None:
  assert ended[0] == outcome and 'Traceback' not in ended[1] and 'InputError' not in ended[1], ended


@attacks.counts(4, 100)
def test_bulk_synthesis(zygote, tmp_path, mel, count):
  """Each wav that there is at any moment is whole, and in the end none is missing."""
  tally, inputs = attacks.Tally('kills of bulk synthesis'), tmp_path / 'in'
  inputs.mkdir()
  for i in range(40):
    np.save(inputs / f'{i}.npy', log_mel(mel, 400 + i, seed=i).T)
  for output in 'first', 'whole':
    start = time.monotonic()
    _well(zygote.run('synthesize', str(inputs), str(tmp_path / output)))
    seconds = time.monotonic() - start
  whole = {p.name: p.read_bytes() for p in (tmp_path / 'whole').glob('*.wav')}
  assert len(whole) == 40
  for number, rng in attacks.seeded(100 * count):
    output = tmp_path / f'out{number}'
    killed = zygote.run('synthesize', str(inputs), str(output), seconds=rng.uniform(0, seconds))
    found = {p.name: p.read_bytes() for p in output.glob('*.wav')}
    assert found.items() <= whole.items(), number
    if killed[0] == 'killed':
      tally.count('right results')
      _well(zygote.run('synthesize', str(inputs), str(output)))
      assert {p.name: p.read_bytes() for p in output.glob('*.wav')} == whole, number
      assert not list(output.glob('.*tmp*'))
    if tally.total == count:
      break
  tally.report(count)


@pytest.mark.slow
@pytest.mark.parametrize('count', [100])
def test_training(zygote, tmp_path, tiny_config, count):
  """A run that is killed again and again has, in the end, the weights of one that is not."""
  tally, number = attacks.Tally('kills of training'), 0
  config = dataclasses.replace(tiny_config, train=dataclasses.replace(
      tiny_config.train, steps=400, save_every=2, eval_every=100, log_every=2))
  config.evaluation.synthesize = 0
  values = config_lib.to_dict(config)
  start = time.monotonic()
  _well(zygote.run('train', values, str(tmp_path / 'whole')))
  seconds = time.monotonic() - start
  expected = _last_state(tmp_path / 'whole', config)
  while tally.total < count:
    run, last = tmp_path / f'run{number}', 0
    rng, number = np.random.default_rng([0x5eed, number]), number + 1
    while tally.total < count:
      ended = zygote.run('train', values, str(run), seconds=rng.uniform(0, 0.6 * seconds))
      if ended[0] == 'ended':
        _well(ended)
        break
      assert 'Traceback' not in ended[1], ended
      tally.count('right results')
      last = _steps_kept(run, last)
    _well(zygote.run('train', values, str(run)))
    found = _last_state(run, config)
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True)), run
    steps = [row['step'] for row in journal.read_rows(run / 'metrics.jsonl') if 'valid_nll' in row]
    assert steps == [100, 200, 300, 400]
  tally.report(count)


def _last_state(run, config) -> list:
  """All arrays of the last checkpoint."""
  like = step_lib.initial_state(models.build(config).init(0), config)
  return jax.tree.leaves(checkpoints.Checkpoints(run, read_only=True).restore(like)[0])


def _steps_kept(run, before: int) -> int:
  """The last complete step, which no kill may take back; all that is there can be read."""
  steps = [int(p.name) for p in run.glob('checkpoints/*') if p.name.isdigit()]
  assert max(steps, default=0) >= before
  if (run / 'run.json').exists():
    json.loads((run / 'run.json').read_text())
  if steps:
    assert int(checkpoints.load(run).identity.partition(':')[0]) in steps
  return max(steps, default=0)
