"""Studies and bulk synthesis on Ray workers, some of which are killed."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import loudness
from loudness import RATE, sounds, speak
import processes
import pytest

from experiments.sweeps import rows as rows_lib
from wavernn_jax import audio, executors
from wavernn_jax.training import journal


@pytest.fixture
def recordings(tmp_path, speech):
  return loudness.write_recordings(tmp_path / 'recordings', speech)


_SWEEP = '''
import json, pathlib, sys
from experiments.sweeps import runs as runs_lib
from wavernn_jax import config as config_lib, executors
runs = [runs_lib.Run(name, {}, config_lib.from_dict(values))
        for name, values in json.loads(sys.argv[1]).items()]
runs_lib.execute(runs, sys.argv[2], sys.argv[3], executor=executors.create(sys.argv[4]))
'''


def _lock_holder(path):
  """The process that holds a file lock, None if there is none."""
  if not path.exists():
    return None
  inode = path.stat().st_ino
  for line in pathlib.Path('/proc/locks').read_text().splitlines():
    fields = line.split()
    if 'FLOCK' in fields and int(fields[-3].split(':')[2]) == inode:
      return int(fields[fields.index('FLOCK') + 3])


@pytest.mark.slow
def test_a_sweep_on_two_ray_workers_of_which_one_is_killed_loses_and_doubles_no_row(
    tiny_config, tmp_path):
  pytest.importorskip('ray', reason='Ray is not installed: pip install ray')
  tiny_config.train.steps = tiny_config.train.eval_every = 120
  tiny_config.train.save_every, tiny_config.train.keep = 10, 100
  tiny_config.evaluation.synthesize = tiny_config.evaluation.free_running = 0
  values = {}
  for seed, name in enumerate('abcd'):
    tiny_config.train.seed = seed
    values[name] = json.loads(processes.as_argument(tiny_config))
  ray, alone = tmp_path / 'ray', tmp_path / 'alone'
  with _sweeping(values, ray, 'ray,cpus=1') as driver:
    name, worker = _worker_past(ray / 'runs', values, 30, driver)
    os.kill(worker, signal.SIGKILL)
    kept = ray / 'runs' / name / 'checkpoints' / '10'
    written = kept.stat().st_mtime_ns
    _finish(driver)
  with _sweeping(values, alone, 'process') as driver:
    _finish(driver)
  rows, expected = (sorted(rows_lib.read_rows(f / 'rows.csv'), key=lambda row: row['name'])
                    for f in (ray, alone))
  assert [row['name'] for row in rows] == list(values)
  for row, same in zip(rows, expected, strict=True):
    assert row['nll'] == same['nll'] and row['updates'] == '120'
  assert kept.stat().st_mtime_ns == written  # it went on, and did not begin again
  curves = [[{k: v for k, v in row.items() if k != 'samples_per_second'}
             for row in journal.read_rows(f / 'runs' / name / 'metrics.jsonl')]
            for f in (ray, alone)]
  assert curves[0] == curves[1]


@contextlib.contextmanager
def _sweeping(values, folder, executor):
  """A process that executes the sweep of these configs."""
  folder.mkdir()
  # Ray's workers are niced by 15 unless told otherwise: too slow on a busy machine.
  environment = processes.environment() | {'RAY_worker_niceness': '0'}
  with open(folder / 'log', 'w') as log:
    driver = subprocess.Popen(
        [sys.executable, '-c', _SWEEP, json.dumps(values), folder / 'rows.csv',
         folder / 'runs', executor], cwd=processes.ROOT, stdout=log, stderr=log, env=environment)
  driver.log = folder / 'log'
  try:
    yield driver
  finally:
    driver.terminate()
    driver.wait(60)


def _finish(driver):
  assert driver.wait(3 * processes.SECONDS) == 0, driver.log.read_text()


def _worker_past(runs, names, step, driver):
  """A run that has a checkpoint of a step, and the process that trains it."""
  end = time.monotonic() + 3 * processes.SECONDS
  while True:
    for name in names:
      worker = _lock_holder(runs / name / '.lock')
      if worker and (runs / name / 'checkpoints' / str(step)).exists():
        return name, worker
    assert driver.poll() is None and time.monotonic() < end, driver.log.read_text()
    time.sleep(0.01)


@pytest.mark.slow
def test_bulk_synthesis_on_ray_gives_what_this_process_gives(
    recordings, tmp_path, monkeypatch):
  monkeypatch.setenv('PYTHONPATH', str(pathlib.Path(__file__).parent))  # of the sampler's module
  monkeypatch.setenv('RAY_worker_niceness', '0')
  ray = pytest.importorskip('ray', reason='Ray is not installed: pip install ray')
  (recordings / 'bad.wav').write_text('no audio')
  executor = executors.create('ray,cpus=1,retries=1')
  try:
    there = speak(recordings, tmp_path / 'ray', executor=executor)
  finally:
    ray.shutdown()
  here = speak(recordings, tmp_path / 'here')
  assert sounds(tmp_path / 'ray') == sounds(tmp_path / 'here')
  assert there['failed'] == here['failed'] and there['files'] == here['files'] == 7
  assert audio.read_audio(tmp_path / 'ray' / '0.wav', RATE).any()
