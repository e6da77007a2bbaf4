"""Executors, bulk synthesis on them, and a sweep on Ray of which a worker is killed."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import types

import numpy as np
import processes
import pytest
import soundfile

from experiments.sweeps import rows as rows_lib, runs as runs_lib
from wavernn_jax import audio, executors
from wavernn_jax.config import MelConfig
from wavernn_jax.errors import InputError
from wavernn_jax.models.system import Timing
from wavernn_jax.sampling.engine import Engine
from wavernn_jax.synthesis import bulk
from wavernn_jax.training import journal

RATE = 8_000
MEL = MelConfig(name='small', sample_rate=RATE, n_fft=256, window=200, hop=50, bands=20,
                fmax=4_000.0)


class Loudness(Engine):
  """An engine whose audio is the mean of each mel frame: quick, and a function of its input."""

  name, block_frames, at_once = 'loud', 4, 4
  model = types.SimpleNamespace(mel=MEL, timing=Timing(margin=0),
                                ended=lambda state, samples: state)
  opened = []

  def warm_up(self, batch):
    self.opened.append(batch)

  def initial_state(self, batch):
    return batch

  def next_block(self, state, mel_BxFxM, keys_Bx2):
    assert len(mel_BxFxM) == len(keys_Bx2) == state
    frames = (100 * mel_BxFxM.mean(axis=2)).astype(np.int16) + keys_Bx2[:, :1].astype(np.int16)
    return np.repeat(frames, MEL.hop, axis=1), state

  def score(self, state, pcm_BxN, mel_BxFxM):
    raise NotImplementedError


@pytest.fixture
def recordings(tmp_path, speech):
  """Seven wav files in two folders."""
  folder = tmp_path / 'recordings'
  (folder / 'more').mkdir(parents=True)
  for i in range(7):
    name = f'more/{i}.wav' if i % 2 else f'{i}.wav'
    soundfile.write(folder / name, speech(0.1 + 0.05 * i, seed=i), RATE, 'PCM_16')
  return folder


def speak(inputs, output, seed=0, executor=None, **options):
  return bulk.synthesize(bulk.find_inputs(inputs), output, Loudness, MEL, {
      'model': 'm', 'seed': seed, 'engine': 'loud'}, executor or executors.InProcess(), seed,
      batch=4, **options)


def sounds(folder):
  return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob('*.wav')}


# Executors


def test_problems_are_told_apart_from_values_and_a_stop_ends_the_rest():
  def job(number):
    if number == 1:
      raise InputError('one is bad')
    if number == 3:
      raise executors.Stopped
    return 10 * number
  outcomes = list(executors.InProcess().run(job, range(5)))
  assert outcomes == [executors.Outcome(0, 0), executors.Outcome(1, problem='one is bad'),
                      executors.Outcome(2, 20)]


@pytest.mark.parametrize('description', [
    'thread', 'process,cpus=2', 'ray,cpu=2', 'ray,cpus=two', 'ray,retries=1.5', ''])
def test_an_executor_that_is_none_is_named(description):
  with pytest.raises(InputError, match=f'--executor: found {description!r}, expected'):
    executors.create(description)


def test_ray_that_is_not_installed_is_a_clear_error(monkeypatch):
  monkeypatch.setitem(sys.modules, 'ray', None)
  with pytest.raises(InputError, match='--executor=ray: Ray is not installed; pip install'):
    executors.create('ray,cpus=2')


# Sweeps


def _run(name):
  return runs_lib.Run(name, {}, None)


def test_a_sweep_goes_on_after_a_run_that_fails_and_adds_each_row_once(tmp_path, monkeypatch):
  done = []
  def finish(run, workdir):
    done.append(run.name)
    if run.name == 'b' and done.count('b') == 1:
      raise InputError('no audio')
    return {'name': run.name, 'nll': 1}, [{'name': run.name, 'utterance': 'u'}]
  monkeypatch.setattr(runs_lib, 'finish', finish)
  runs, path = [_run(name) for name in 'abc'], tmp_path / 'rows.csv'
  with pytest.raises(InputError, match='(?s)1 runs failed.*b: no audio'):
    runs_lib.execute(runs, path, tmp_path)
  assert [row['name'] for row in rows_lib.read_rows(path)] == ['a', 'c']
  runs_lib.execute(runs, path, tmp_path)
  assert done == list('abcb')
  assert [row['name'] for row in rows_lib.read_rows(path)] == ['a', 'c', 'b']
  assert len(rows_lib.read_rows(tmp_path / 'utterances.csv')) == 3


def test_two_sweeps_into_one_csv_are_refused(tmp_path, monkeypatch):
  path = tmp_path / 'rows.csv'
  def finish(run, workdir):
    with pytest.raises(InputError, match='rows.csv: another process adds rows'):
      runs_lib.execute([_run('b')], path, tmp_path)
    return {'name': run.name}, []
  monkeypatch.setattr(runs_lib, 'finish', finish)
  runs_lib.execute([_run('a')], path, tmp_path)


# Bulk synthesis


def test_a_folder_is_synthesised_once_and_only_what_is_missing_later(
    recordings, tmp_path, monkeypatch):
  output = tmp_path / 'out'
  result = speak(recordings, output)
  names = {p.relative_to(recordings).as_posix() for p in recordings.rglob('*.wav')}
  whole = sounds(output)
  assert whole.keys() == names and result['engine'] == 'loud'
  assert (result['files'], result['skipped'], result['failed']) == (7, 0, {})
  lengths = [soundfile.info(recordings / n).frames for n in names]
  assert result['audio_seconds'] == pytest.approx(sum(lengths) / RATE)
  for name in ('0.wav', 'more/3.wav'):
    (output / name).unlink()
  for name in ('more/.3.wav.1234', '.synthesis.json.1234'):
    (output / f'{name}.wavernn-tmp').write_text('what a kill left')
  kept = {p: p.stat().st_mtime_ns for p in output.rglob('*.wav')}
  Loudness.opened.clear()
  result = speak(recordings, output)
  assert (result['files'], result['skipped']) == (2, 5)
  assert sounds(output) == whole and not list(output.rglob('*tmp'))
  assert all(path.stat().st_mtime_ns == then for path, then in kept.items())
  assert Loudness.opened == [4]  # as many lanes as at first: the same rounding
  Loudness.opened.clear()
  assert speak(recordings, output)['files'] == 0 and Loudness.opened == []


def test_chunks_share_a_sampler_and_give_what_one_chunk_gives(recordings, tmp_path, monkeypatch):
  speak(recordings, tmp_path / 'one')
  chunks = bulk._chunks
  monkeypatch.setattr(bulk, '_chunks', lambda inputs, names, size: chunks(inputs, names, 2))
  Loudness.opened.clear()
  speak(recordings, tmp_path / 'many')
  assert Loudness.opened == [4]
  assert sounds(tmp_path / 'one') == sounds(tmp_path / 'many')


def test_failures_are_reported_file_by_file(recordings, tmp_path):
  (recordings / 'bad.wav').write_text('no audio')
  np.save(recordings / 'worse.npy', np.zeros((9, 50), np.float32))
  result = speak(recordings, tmp_path / 'out')
  assert result['files'] == 7 and result['failed'].keys() == {'bad', 'worse'}
  assert 'cannot be read as audio' in result['failed']['bad']
  soundfile.write(recordings / 'bad.wav', soundfile.read(recordings / '0.wav')[0], RATE)
  result = speak(recordings, tmp_path / 'out')
  assert result['files'] == 1 and result['failed'].keys() == {'worse'}


def test_a_job_that_fails_altogether_is_the_failure_of_its_files(recordings, tmp_path):
  class Failing:
    def run(self, function, jobs):
      for job in jobs:
        yield executors.Outcome(job, problem='its worker died')
  result = speak(recordings, tmp_path / 'out', executor=Failing())
  assert set(result['failed'].values()) == {'its worker died'} and len(result['failed']) == 7
  assert result['realtime_factor'] is None


def test_audio_of_other_settings_is_neither_mixed_nor_lost(recordings, tmp_path):
  output = tmp_path / 'out'
  speak(recordings, output)
  before = sounds(output)
  with pytest.raises(InputError, match='other settings .seed: 0 there, 1 here.; .*--overwrite'):
    speak(recordings, output, seed=1)
  assert sounds(output) == before
  speak(recordings, output, seed=1, overwrite=True)
  after = sounds(output)
  assert after.keys() == before.keys() and all(after[name] != before[name] for name in after)
  assert speak(recordings, output, seed=1)['skipped'] == 7
  (output / 'synthesis.json').unlink()
  with pytest.raises(InputError, match=r'holds .*\.wav, but no synthesis.json'):
    speak(recordings, output, seed=1)


@pytest.mark.parametrize('overwrite', [False, True])
def test_recordings_are_never_replaced_by_their_synthesis(recordings, overwrite):
  before = sounds(recordings)
  with pytest.raises(InputError, match='would overwrite the input'):
    speak(recordings, recordings, overwrite=overwrite)
  assert sounds(recordings) == before


def test_a_manifest_lists_inputs_and_names(recordings, tmp_path):
  manifest = tmp_path / 'list.txt'
  manifest.write_text(f'recordings/0.wav\n\n{recordings}/more/1.wav\tgiven/name\n'
                      f'{recordings}/2.wav\nrecordings/none.wav\n')
  result = speak(manifest, tmp_path / 'out')
  assert sounds(tmp_path / 'out').keys() == {'recordings/0.wav', 'given/name.wav', '2.wav'}
  assert result['failed'].keys() == {'recordings/none'}


@pytest.mark.parametrize(('lines', 'expected'), [
    ('a.wav\nb/a.wav\ta\n', "line 2: found the name 'a'"), ('../a.wav\n', 'line 1'),
    ('a.wav\t/etc/a\n', 'line 1'), ('\n', 'lists no input')])
def test_a_manifest_that_cannot_be_is_named_with_the_line(tmp_path, lines, expected):
  (tmp_path / 'list.txt').write_text(lines)
  with pytest.raises(InputError, match=expected):
    bulk.find_inputs(tmp_path / 'list.txt')


# Ray

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
