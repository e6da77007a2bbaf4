"""Executors, bulk synthesis on them, and a sweep on Ray of which a worker is killed."""

import sys

import loudness
from loudness import RATE, Loudness, sounds, speak
import numpy as np
import pytest
import soundfile

from experiments.sweeps import rows as rows_lib, runs as runs_lib
from wavernn_jax import executors
from wavernn_jax.errors import InputError
from wavernn_jax.synthesis import bulk


@pytest.fixture
def recordings(tmp_path, speech):
  return loudness.write_recordings(tmp_path / 'recordings', speech)


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
