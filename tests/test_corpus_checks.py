"""Corpora: what is no recording, names that are not UTF-8, and copies between splits."""

import os
import struct
import warnings

import numpy as np
import pytest
import soundfile
import soxr

from wavernn_jax import audio
from wavernn_jax.config import DataConfig, MelConfig
from wavernn_jax.data import corpus as corpus_lib, fingerprint
from wavernn_jax.errors import InputError

RATE = 8_000
SPEECH = 24_000  # Hz, of the bundled sentences


def load(paths, mel, **config):
  return corpus_lib.load_utterances(paths, DataConfig(**config), mel, 200, keep_pcm=False)


def write(path, pcm, rate=RATE):
  path.parent.mkdir(parents=True, exist_ok=True)
  soundfile.write(path, pcm, rate, 'PCM_16')
  return path


# What is no recording


@pytest.mark.parametrize('rate', [1, 3_999, 384_001, 2**31 - 1])
def test_a_rate_that_no_recording_has_is_named_at_once(tmp_path, mel, speech, rate):
  path = write(tmp_path / 'a.wav', speech(0.3))
  data = bytearray(path.read_bytes())
  data[24:28] = struct.pack('<I', rate)
  path.write_bytes(data)
  with pytest.raises(InputError, match=rf'a\.wav: its header says {rate} Hz, expected 4000 to'):
    audio.open_audio(path)
  with pytest.raises(InputError, match=f'1 of 1 audio files .*\n.*says {rate} Hz'):
    load([path], mel)


@pytest.mark.parametrize('rate', [4_000, 384_000])
def test_the_outermost_rates_are_read(tmp_path, speech, rate):
  file = audio.open_audio(write(tmp_path / 'a.wav', speech(0.3), rate))
  assert file.sample_rate == rate


def test_pipes_and_devices_are_listed_and_not_opened(tmp_path, mel, speech):
  write(tmp_path / 'good.wav', speech(0.3))
  os.mkfifo(tmp_path / 'pipe.wav')
  (tmp_path / 'null.flac').symlink_to('/dev/null')
  with pytest.raises(InputError) as error:
    load(corpus_lib.find_audio(tmp_path), mel)
  assert '2 of 3 audio files' in str(error.value)
  assert f'{tmp_path}/pipe.wav: found a named pipe, expected a wav or flac file' in str(error.value)
  assert f'{tmp_path}/null.flac: found a device' in str(error.value)


def test_whatever_a_reader_raises_is_listed(tmp_path, mel, speech, monkeypatch):
  paths = [write(tmp_path / f'{i}.wav', speech(0.3, seed=i)) for i in range(3)]
  read = audio.read_audio

  def broken(path, rate):
    if str(path).endswith('1.wav'):
      raise MemoryError('no more')
    return read(path, rate)
  monkeypatch.setattr(audio, 'read_audio', broken)
  with pytest.raises(InputError, match=r'1 of 3 .*\n .*1\.wav: cannot be read \(MemoryError'):
    load(paths, mel)


# Names


def test_names_that_are_not_utf8_are_read_and_split(tmp_path, mel, speech):
  for i in range(5):
    audio.write_wav(tmp_path / os.fsdecode(b'caf\xe9%d.wav' % i), speech(0.3, seed=i), RATE)
  split = corpus_lib.split_files(DataConfig(dir=str(tmp_path)))
  utterances = [u for paths in split.values() for u in load(paths, mel)]
  assert sorted(u.name for u in utterances) == [f'caf\\xe9{i}' for i in range(5)]
  for u in utterances:
    u.name.encode()  # as tags and digests do
    np.testing.assert_array_equal(
        u.read(7, 900, RATE), speech(0.3, seed=int(u.name[-1]))[7:900])


def test_linked_folders_belong_to_the_corpus_once(tmp_path, speech):
  write(tmp_path / 'disk' / 'a.wav', speech(0.3))
  write(tmp_path / 'corpus' / 'b.wav', speech(0.3, seed=1))
  (tmp_path / 'corpus' / 'linked').symlink_to(tmp_path / 'disk')
  (tmp_path / 'disk' / 'again').symlink_to(tmp_path / 'corpus')
  found = corpus_lib.find_audio(tmp_path / 'corpus')
  assert [p.relative_to(tmp_path).as_posix() for p in found] == [
      'corpus/b.wav', 'corpus/linked/a.wav']


# Copies


@pytest.fixture(scope='module')
def sentences():
  """Bundled sentences at 24 kHz, int16."""
  folder = corpus_lib.pathlib.Path(corpus_lib.__file__).parent
  folder = next(p for p in (folder, *folder.parents) if (p / 'demo_speech').exists())
  paths = sorted((folder / 'demo_speech').rglob('*.flac'))[:12]
  return [audio.read_audio(path, SPEECH) for path in paths]


def _resampled(pcm, rate):
  return np.rint(soxr.resample(pcm.astype(float), SPEECH, rate)).astype(np.int16)


def copies(pcm):
  """Name -> (samples, sample rate) of what is the same recording to a listener."""
  rng = np.random.default_rng(0)
  return {
      'quieter': (np.rint(pcm * 0.1).astype(np.int16), SPEECH),
      'inverted': ((-0.9 * pcm).astype(np.int16), SPEECH),
      'cut': (pcm[1_234:-4_321], SPEECH),
      'half': (pcm[len(pcm) // 4:-len(pcm) // 4], SPEECH),
      'padded': (np.pad(pcm, (9_999, 5_555)), SPEECH),
      '16kHz': (_resampled(pcm, 16_000), 16_000),
      '44kHz_cut': (_resampled(pcm[777:] * 0.5, 44_100), 44_100),
      'noisy': ((pcm + rng.standard_normal(len(pcm)) * pcm.std() / 20).astype(np.int16), SPEECH)}


def test_copies_are_named_all_of_them_and_nothing_else(tmp_path, sentences):
  mel = MelConfig()
  train = [write(tmp_path / 'train' / f't{i}.wav', pcm, SPEECH)
           for i, pcm in enumerate(sentences)]
  held_out = [write(tmp_path / 'test' / f'{name}.flac', *made)
              for name, made in copies(sentences[3]).items()]
  train.append(write(tmp_path / 'train' / 'twice.wav', sentences[3] // 2, SPEECH))
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # of resampling
    splits = {'train': load(train, mel), 'valid': [], 'test': load(held_out, mel)}
  with pytest.raises(InputError) as error:
    corpus_lib.check_disjoint(splits)
  lines = [line.strip() for line in str(error.value).splitlines() if line.startswith('  ')]
  assert sorted(lines) == sorted(
      f'{tmp_path}/train/{a}.wav (train) = {path} (test)'
      for a in ('t3', 'twice') for path in held_out)
  assert f'{len(lines)} recordings are in two splits but for gain' in str(error.value)
  corpus_lib.check_disjoint(splits | {'test': []})  # within a split they mislead nobody


def test_different_sentences_of_a_voice_are_no_copies(sentences):
  prints = [fingerprint.fingerprint(pcm, SPEECH) for pcm in sentences]
  assert all(len(p) > 60 for p in prints)
  assert list(fingerprint.find_copies(prints, prints)) == [(i, i) for i in range(len(prints))]


def test_silence_and_hum_are_no_sound_in_common(sentences):
  rng = np.random.default_rng(0)
  t = np.arange(2 * SPEECH) / SPEECH
  hum = np.rint(3_000 * np.sin(2 * np.pi * 50 * t))

  def among(pcm):
    return np.concatenate([np.zeros(2 * SPEECH), pcm, np.zeros(2 * SPEECH)]).astype(np.int16)
  pairs = [
      (among(sentences[0]), among(sentences[1])),
      *[tuple((hum + rng.standard_normal(len(t)) * level).astype(np.int16) for _ in range(2))
        for level in (2, 20, 200)]]
  for a, b in pairs:
    prints = [fingerprint.fingerprint(x, SPEECH) for x in (a, b)]
    assert list(fingerprint.find_copies(prints[:1], prints[1:])) == []
  assert not fingerprint.fingerprint(np.zeros(SPEECH, np.int16), SPEECH).any()
  assert len(fingerprint.fingerprint(np.zeros(900, np.int16), SPEECH)) == 0


def test_every_copy_is_named_however_many_there_are(sentences):
  """More copies than places that are looked at: from one of both sides each is found."""
  copy = fingerprint.fingerprint(sentences[0], SPEECH)
  others = [fingerprint.fingerprint(pcm, SPEECH) for pcm in sentences[1:4]]
  many = [copy] * 100 + others
  assert {i for i, _ in fingerprint.find_copies(many, [copy])} == set(range(100))
  assert len(list(fingerprint.find_copies([copy], many))) == 16


def test_the_same_samples_are_named_with_all_their_places(tmp_path, mel, speech):
  paths = {name: write(tmp_path / name / f'{name}.wav', speech(0.3)) for name in 'abcd'}
  splits = {'train': load([paths['a'], paths['b']], mel), 'valid': load([paths['c']], mel),
            'test': load([paths['d']], mel)}
  with pytest.raises(InputError) as error:
    corpus_lib.check_disjoint(splits)
  assert ' = '.join(f'{paths[n]} ({s})' for n, s in zip(
      'abcd', ('train', 'train', 'valid', 'test'), strict=True)) in str(error.value)
