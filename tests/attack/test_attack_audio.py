"""Twenty kinds of broken audio, in a corpus and as the input of a synthesis."""

import os
import struct
import warnings

import attacks
import numpy as np
import pytest
import soundfile

from wavernn_jax import audio
from wavernn_jax.config import DataConfig
from wavernn_jax.data import corpus
from wavernn_jax.errors import InputError
from wavernn_jax.synthesis import sources

RATE = 8_000


def _with(offset, value, kind='<I'):
  """A wav with another number in its header."""
  return lambda data: data[:offset] + struct.pack(kind, value) + data[
      offset + struct.calcsize(kind):]


# Of the bytes of a wav; those of which much is left may be read as it is.
BYTES = {
    'empty': lambda data: b'', 'one byte': lambda data: data[:1], 'cut': lambda data: data[:3_000],
    'header alone': lambda data: data[:44], 'header cut': lambda data: data[:30],
    'zeros': lambda data: bytes(len(data)), 'text': lambda data: b'no audio at all\n' * 99,
    'no rate': _with(24, 0), 'rate of 1 Hz': _with(24, 1), 'rate of 4 GHz': _with(24, 2**32 - 1),
    'no channels': _with(22, 0, '<H'), '60,000 channels': _with(22, 60_000, '<H'),
    'unknown format': _with(20, 0x7777, '<H'), 'bits of nothing': _with(34, 3, '<H'),
    'too long a chunk': _with(40, 2**30)}
FLOATS = {'nan': np.nan, 'inf': np.inf}
FILES = {'folder': os.mkdir, 'pipe': os.mkfifo,
         'broken link': lambda path: os.symlink('/nowhere/x.wav', path)}


def test_twenty_kinds_of_broken_audio(tmp_path, mel, speech):
  tally, kinds = attacks.Tally('broken audio'), [*BYTES, *FLOATS, *FILES]
  assert len(kinds) == 20
  good = tmp_path / 'good.wav'
  soundfile.write(good, speech(0.5), RATE, 'PCM_16')
  for kind in kinds:
    path = tmp_path / f'{kind}.wav'
    if kind in BYTES:
      path.write_bytes(BYTES[kind](good.read_bytes()))
    elif kind in FLOATS:
      samples = speech(0.5) / 32_768
      samples[99] = FLOATS[kind]
      soundfile.write(path, samples, RATE, 'FLOAT')
    else:
      FILES[kind](path)
    with pytest.raises(InputError) as refused:
      found = corpus.load_utterances([good, path], DataConfig(), mel, 200)
      pytest.fail(f'{kind}: read as {[u.samples for u in found]} samples')
    assert '1 of 2 audio files' in str(refused.value) and f'/{kind}.wav: ' in str(refused.value)
    tally.attack(kind, lambda path=path: sources.load_source('a', path, mel), lambda found: False)
  tally.report(20)
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    kept = corpus.load_utterances([good, *(tmp_path / f'{kind}.wav' for kind in kinds)],
                                  DataConfig(skip_bad=True), mel, 200)
  assert [u.path for u in kept] == [good]


@attacks.counts(150, 3_000)
def test_damaged_recordings(tmp_path, mel, speech, count):
  """A number that differs is a recording that differs: only lengths are checked."""
  tally, pcm, originals = attacks.Tally('damaged recordings'), speech(0.5), []
  for suffix, subtype in (('wav', 'PCM_16'), ('wav', 'FLOAT'), ('flac', 'PCM_16')):
    path = tmp_path / f'{subtype}.{suffix}'
    soundfile.write(path, pcm, RATE, subtype)
    originals.append((path, path.read_bytes()))
  for number, rng in attacks.seeded(count):
    path, data = originals[rng.integers(3)]
    head = 60 if number % 2 else len(data)
    path.write_bytes(attacks.damage(data[:head], rng) + data[head:])
    tally.attack(number, lambda path=path: audio.read_audio(path, RATE),
                 lambda found: found.dtype == np.int16 and len(found) > 0)
  tally.report(count)
