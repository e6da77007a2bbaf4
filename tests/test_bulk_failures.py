"""Bulk synthesis of damaged files, onto a full disk, and of names that are not UTF-8."""

import codecs
import json
import os

from loudness import MEL, RATE, Loudness, sounds, speak
import numpy as np
import pytest
from test_files import full_disk

from wavernn_jax import audio, executors
from wavernn_jax.data import mel_files
from wavernn_jax.errors import InputError
from wavernn_jax.synthesis import bulk

__all__ = ['full_disk']  # a fixture


@pytest.fixture
def mels(tmp_path, speech):
  """Four .npy mels of 0.2 to 0.5 s."""
  folder = tmp_path / 'mels'
  folder.mkdir()
  for i in range(4):
    pcm = speech(0.2 + 0.1 * i, seed=i)
    np.save(folder / f'{i}.npy', audio.utterance_log_mel(pcm, MEL).T)
  return folder


def _npy(header: str, body=b'') -> bytes:
  text = header.encode('latin1')
  return b'\x93NUMPY\x01\x00' + len(text).to_bytes(2, 'little') + text + body


# What numpy's reader raises is what each of them is named by.
HEADERS = {
    'TokenError': "{'descr': '<f4', 'fortran_order': False, 'shape': (20, 9), ",
    'SyntaxError': "{'descr': '<f4' 'fortran_order': False, 'shape': (20, 9), }\n",
    'TypeError': "{'descr': '<f4', 'fortran_order': False, 'shape': (20, 9), [1]: 2, }\n",
    'MemoryError': "{'descr': '<f4', 'fortran_order': False, 'shape': (20, 99999999999), }\n",
    'RecursionError': '(' * 4_000 + '\n',
    'overflow': "{'descr': '<f4', 'fortran_order': False, 'shape': (20, 1" + '0' * 400 + '), }\n',
    'negative': "{'descr': '<f4', 'fortran_order': False, 'shape': (-20, 9), }\n",
    'dtype': "{'descr': ('<f4', ('<f4', 3, 4)), 'fortran_order': False, 'shape': (20, 9), }\n"}


@pytest.mark.parametrize('kind', HEADERS)
def test_a_damaged_mel_is_one_failure_among_others(mels, tmp_path, kind):
  (mels / '2.npy').write_bytes(_npy(HEADERS[kind], bytes(720)))
  result = speak(mels, tmp_path / 'out')
  assert set(result['failed']) == {'2'} and result['files'] == 3
  assert result['failed']['2'].startswith(f'{mels}/2.npy: cannot be read')
  assert '\n' not in result['failed']['2']


def test_a_header_that_promises_more_than_the_file_takes_no_memory(mels):
  (mels / '0.npy').write_bytes(_npy(
      "{'descr': '<f4', 'fortran_order': False, 'shape': (20, 500000000), }\n", bytes(720)))
  with pytest.raises(InputError, match=r'0\.npy: .*720 bytes for float32 of shape'):
    mel_files.read_mel(mels / '0.npy', MEL)


@pytest.mark.parametrize('text', [
    '[' * 100_000, '[[1, 2]]', '{"hop": ' + '9' * 5_000 + '}', '"hop"', '\udcff\udcfe', '{"hop"'])
def test_a_damaged_sidecar_is_one_failure_among_others(mels, tmp_path, text):
  (mels / '1.mel.json').write_bytes(os.fsencode(text))
  result = speak(mels, tmp_path / 'out')
  assert set(result['failed']) == {'1'} and result['files'] == 3
  assert '1.mel.json: cannot be read' in result['failed']['1']


def test_whatever_a_reader_raises_is_the_failure_of_its_file(mels, tmp_path, monkeypatch):
  load = bulk.sources_lib.load_source

  def broken(name, path, mel):
    if name == '3':
      raise MemoryError('no more')
    return load(name, path, mel)
  monkeypatch.setattr(bulk.sources_lib, 'load_source', broken)
  result = speak(mels, tmp_path / 'out')
  assert result['failed'] == {'3': f'{mels}/3.npy: cannot be read (MemoryError: no more).'}
  assert result['files'] == 3


def test_a_full_disk_fails_what_is_left_and_the_same_command_goes_on(
    mels, tmp_path, full_disk, monkeypatch):
  monkeypatch.setattr(bulk, '_CHUNK', 1)
  whole, output = tmp_path / 'whole', tmp_path / 'out'
  speak(mels, whole)
  sizes = {name: len(data) for name, data in sounds(whole).items()}
  full_disk(room=sizes['2.wav'])  # enough for all but the longest, which comes first
  result = bulk.synthesize(bulk.find_inputs(mels), output, Loudness, MEL, {
      'model': 'm', 'seed': 0, 'engine': 'loud'}, executors.InProcess(), batch=1)
  assert set(result['failed']) == set('0123') and result['files'] == 0
  reason, = set(result['failed'].values())
  assert '3.wav: cannot be written (No space left on device)' in reason
  assert sounds(output) == {} and not list(output.glob('.*tmp*'))
  full_disk(room=10**9)
  again = speak(mels, output)
  assert again['failed'] == {} and sounds(output) == sounds(whole)


def test_a_wav_that_cannot_be_written_is_its_own_failure(mels, tmp_path):
  output = tmp_path / 'out'
  result = bulk.synthesize(
      bulk.find_inputs(mels) | {'x' * 300: mels / '0.npy'}, output, Loudness, MEL, {
          'model': 'm', 'seed': 0, 'engine': 'loud'}, executors.InProcess(), batch=2)
  assert set(result['failed']) == {'x' * 300} and result['files'] == 4
  assert 'File name too long' in result['failed']['x' * 300]


# Names


def test_names_that_are_not_utf8_are_synthesised(mels, tmp_path):
  odd = os.fsdecode(b'caf\xe9')
  (mels / '0.npy').rename(mels / f'{odd}.npy')
  result = speak(mels, tmp_path / 'out')
  assert result['failed'] == {} and f'{odd}.wav' in sounds(tmp_path / 'out')
  json.dumps(result)
  recorded = tmp_path / 'out' / f'{odd}.wav'
  assert len(audio.read_audio(recorded, RATE)) == result['audio_seconds'] * RATE - sum(
      len(audio.read_audio(tmp_path / 'out' / f'{i}.wav', RATE)) for i in (1, 2, 3))


def test_a_manifest_may_have_a_mark_and_names_that_are_not_utf8(mels, tmp_path):
  (mels / '0.npy').rename(mels / os.fsdecode(b'caf\xe9.npy'))
  manifest = mels / 'list.txt'
  manifest.write_bytes(codecs.BOM_UTF8 + b'1.npy\r\ncaf\xe9.npy\ttwo\n')
  assert list(bulk.find_inputs(manifest)) == ['1', 'two']
  assert speak(manifest, tmp_path / 'out')['files'] == 2


def test_a_manifest_of_another_encoding_is_named(mels):
  manifest = mels / 'list.txt'
  manifest.write_text('1.npy\n', encoding='utf-16')
  with pytest.raises(InputError, match=r'list\.txt: found NUL bytes, as in UTF-16'):
    bulk.find_inputs(manifest)


def test_an_input_that_is_a_pipe_is_refused_and_does_not_wait(mels, tmp_path):
  os.mkfifo(mels / 'pipe.npy')
  os.mkfifo(mels / 'pipe.wav')
  os.mkfifo(mels / 'sound.wav')
  result = speak(mels, tmp_path / 'out')
  assert set(result['failed']) == {'pipe', 'sound'} and result['files'] == 4
  assert all('found a named pipe' in reason for reason in result['failed'].values())
  with pytest.raises(InputError, match='found a named pipe'):
    bulk.find_inputs(mels / 'pipe.wav')
