"""A run that is killed or stopped goes on as if nothing had happened, bit for bit.

Real processes: each `Run` is a new Python that trains in the same folder.
"""

import dataclasses
import json
import pathlib
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import soundfile

from wavernn_jax import config as config_lib, models
from wavernn_jax.errors import InputError
from wavernn_jax.training import checkpoints, journal, loop, run as run_lib, step as step_lib

STEPS = 60
SECONDS = 120  # for any process to get anywhere

_DRIVER = '''
import json, sys
from wavernn_jax import config
from wavernn_jax.training import loop
step = loop.train(config.from_dict(json.loads(sys.argv[1])), sys.argv[2])
print('STEP', step)
'''


class Run:
  """A process that trains in a folder."""

  def __init__(self, config, workdir):
    self.workdir = workdir
    self.process = subprocess.Popen(
        [sys.executable, '-c', _DRIVER, json.dumps(config_lib.to_dict(config)), workdir],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        cwd=pathlib.Path(__file__).parent.parent)

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.process.kill()
    self.process.communicate()

  def wait_for(self, happened):
    """Polls until `happened()` is true; its value."""
    end = time.monotonic() + SECONDS
    while not (value := happened()):
      if self.process.poll() is not None:
        pytest.fail(f'the run ended first:\n{self.process.communicate()[1]}')
      assert time.monotonic() < end
      time.sleep(0.0005)
    return value

  def reached(self, step):
    return lambda: any(row['step'] >= step for row in rows(self.workdir))

  def saving(self, least):
    """Whether a save of a step from `least` on is under way."""
    def names():
      return [p.name for p in (self.workdir / 'checkpoints').glob('*tmp*')
              if int(p.name.split('.')[0]) >= least]
    return names

  def kill(self):
    self.process.send_signal(signal.SIGKILL)
    assert self.process.wait(SECONDS) == -signal.SIGKILL

  def finish(self):
    """Its last step, once it has ended by itself."""
    out, err = self.process.communicate(timeout=SECONDS)
    assert self.process.returncode == 0, err
    return int(re.search(r'^STEP (\d+)$', out, re.MULTILINE)[1])


def rows(workdir):
  return journal.read_rows(workdir / 'metrics.jsonl')


def curve(workdir):
  """The rows without the speed, which is nobody's to repeat."""
  return [{k: v for k, v in row.items() if k != 'samples_per_second'} for row in rows(workdir)]


def complete(workdir):
  """Steps of the complete checkpoints."""
  folder = workdir / 'checkpoints'
  return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit())


def last_state(workdir, config):
  like = step_lib.initial_state(models.build(config).init(0), config)
  return checkpoints.Checkpoints(workdir, read_only=True).restore(like)


def test_kills_and_stops_leave_the_curve_and_the_weights_bit_identical(tiny_config, tmp_path):
  tiny_config.train = dataclasses.replace(
      tiny_config.train, steps=STEPS, eval_every=20, input_noise=0.02)
  tiny_config.evaluation.synthesize = 0
  whole, torn = tmp_path / 'whole', tmp_path / 'torn'
  with Run(tiny_config, whole) as undisturbed:
    _tear(tiny_config, torn)
    assert undisturbed.finish() == STEPS

  assert curve(torn) == curve(whole)
  trained, evaluated = ([row['step'] for row in curve(whole) if name in row]
                        for name in ('nll', 'valid_nll'))
  assert trained == list(range(2, STEPS + 1, 2)) and evaluated == list(range(20, STEPS + 1, 20))
  (a, position_a), (b, position_b) = (last_state(w, tiny_config) for w in (whole, torn))
  assert position_a == position_b == {'batches': STEPS}
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_array_equal(np.asarray(x), np.asarray(y))
  assert complete(torn) == complete(whole)


def _tear(config, workdir):
  """Trains to the end in four processes, of which three end before."""
  with Run(config, workdir) as run:  # kill -9 during a save
    run.wait_for(run.saving(6))
    run.kill()
  assert list((workdir / 'checkpoints').glob('*tmp*')), 'the kill came too late to tear a save'
  assert 3 <= complete(workdir)[-1] < 30

  with Run(config, workdir) as run:  # kill -9 after a log
    run.wait_for(run.reached(14))
    with pytest.raises(InputError, match='torn: another process is training in it'):
      loop.train(config, workdir)
    run.kill()
  killed_at = rows(workdir)[-1]['step']
  assert 14 <= killed_at < STEPS - 6

  with Run(config, workdir) as run:
    run.wait_for(run.reached(killed_at + 4))
    run.process.terminate()
    stopped_at = run.finish()
  assert killed_at + 4 <= stopped_at == complete(workdir)[-1] < STEPS

  with Run(config, workdir) as run:
    assert run.finish() == STEPS


def test_a_stop_at_a_step_that_is_evaluated_leaves_no_gap(tiny_config, tmp_path, monkeypatch):
  """The signal comes while the step runs after which an evaluation is due."""
  tiny_config.train = dataclasses.replace(tiny_config.train, steps=6, eval_every=3, log_every=1)
  whole, torn = tmp_path / 'whole', tmp_path / 'torn'
  assert loop.train(tiny_config, whole) == 6
  log = run_lib.Run.log
  def stop_at_3(run, metrics):
    log(run, metrics)
    if run.step == 3:
      signal.raise_signal(signal.SIGTERM)
  before = signal.getsignal(signal.SIGTERM)
  with monkeypatch.context() as patch:
    patch.setattr(run_lib.Run, 'log', stop_at_3)
    assert loop.train(tiny_config, torn) == 3
  assert signal.getsignal(signal.SIGTERM) == before
  assert not [row for row in rows(torn) if 'valid_nll' in row]  # abandoned
  assert complete(torn) == [3]
  assert loop.train(tiny_config, torn) == 6
  assert curve(torn) == curve(whole)
  assert [row['step'] for row in rows(torn) if 'valid_nll' in row] == [3, 6]
  a, b = (checkpoints.Checkpoints(w, read_only=True) for w in (whole, torn))
  assert a.best() == b.best() and all(b.evaluated(step) for step in (3, 6))
  assert sorted(p.name for p in torn.iterdir()) == sorted(p.name for p in whole.iterdir())


def test_sigterm_during_a_long_evaluation_saves_within_ten_seconds(tiny_config, tmp_path):
  """On the corpus repeated to minutes of audio, of which each block takes its time."""
  corpus = pathlib.Path(tiny_config.data.dir)
  for split in ('train', 'test'):
    (tmp_path / 'corpus').mkdir(exist_ok=True)
    (tmp_path / 'corpus' / split).symlink_to(corpus / split)
  (tmp_path / 'corpus' / 'valid').mkdir()
  rng = np.random.default_rng(0)
  for i in range(40):
    pcm = (3_000 * rng.standard_normal(8_000 * 60)).astype(np.int16)
    soundfile.write(tmp_path / 'corpus' / 'valid' / f'{i}.wav', pcm, 8_000, 'PCM_16')
  tiny_config.data.dir = str(tmp_path / 'corpus')
  tiny_config.train = dataclasses.replace(
      tiny_config.train, steps=9, eval_every=4, log_every=1, save_every=100)
  run = tmp_path / 'run'
  with Run(tiny_config, run) as process:
    process.wait_for(process.reached(4))
    time.sleep(3)  # well into the evaluation: its likelihoods take minutes
    assert process.process.poll() is None and not complete(run)
    process.process.terminate()
    since = time.monotonic()
    process.wait_for(lambda: complete(run))
    assert time.monotonic() - since < 10
    assert process.finish() == 4
  assert not [row for row in rows(run) if 'valid_nll' in row]
