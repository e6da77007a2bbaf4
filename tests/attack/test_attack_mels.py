"""Mels of other programs and their sidecars, damaged."""

import json
import warnings

import attacks
import numpy as np
import pytest
from random_models import log_mel

from wavernn_jax.data import mel_files

HEADERS = ["'descr': '<f4'", "'fortran_order': False", "'shape': (20, 40)", ', ', '}', '(', '20']
WORDS = ["'descr': '<f8'", "'descr': '|O'", "'descr': [('a', '<f4')]", "'descr': '<c8'", "'shape'",
         "'shape': (20, 40.0)", "'shape': (20, -40)", "'shape': (20, 4000000000000)", '(' * 50,
         "'fortran_order': 1", '[' * 200, '{' * 90, '**{}', 'lambda: 0', '0x', '"', "'", '\\',
         '1_0', '9' * 50, 'None', "'shape': ()", "'shape': (40,)", '\n', '\0', 'b', '-', 'é']


def _damaged_header(data: bytes, rng) -> bytes:
  """Words of the header, which numpy evaluates, replaced by others; its length is right."""
  size = int.from_bytes(data[8:10], 'little')
  text = data[10:10 + size].decode('latin1')
  for _ in range(1 + rng.integers(2)):
    word = WORDS[rng.integers(len(WORDS))]
    text = text.replace(HEADERS[rng.integers(len(HEADERS))], word, 1)
  header = text.encode('latin1')
  return data[:8] + len(header).to_bytes(2, 'little') + header + data[10 + size:]


def _as_numpy_reads(path, bands: int):
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    array = np.load(path)
  array = array[0] if array.ndim == 3 else array
  return array.T if array.shape[0] == bands else array


@pytest.fixture
def mel_file(tmp_path, mel):
  """A mel as this program writes it; its floats are those of a `mel`."""
  path = tmp_path / 'a.npy'
  mel_files.write_mel(path, log_mel(mel, 40), mel)
  return path


@attacks.counts(300, 9_000)
def test_mels(mel_file, mel, count):
  original, tally = mel_file.read_bytes(), attacks.Tally('.npy mels')
  for number, rng in attacks.seeded(count):
    data = (_damaged_header if number % 3 == 0 else attacks.damage)(original, rng)
    if number % 3 == 1:  # where the header is
      data = attacks.damage(original[:128], rng) + original[128:]
    mel_file.write_bytes(data)
    # A number that differs is a mel that differs: it has no checksum.
    tally.attack(number, lambda: mel_files.read_mel(mel_file, mel),
                 lambda found: np.array_equal(found, _as_numpy_reads(mel_file, mel.bands)))
  tally.report(count)


@attacks.counts(100, 1_000)
def test_sidecars(mel_file, mel, count):
  sidecar, tally = mel_file.with_suffix('.mel.json'), attacks.Tally('sidecars')
  original, whole = sidecar.read_bytes(), mel_files.read_mel(mel_file, mel)
  for number, rng in attacks.seeded(count):
    if number % 2:
      sidecar.write_bytes(attacks.damage(original, rng))
    else:
      fields = json.loads(original)
      attacks.replace_somewhere(fields, rng)
      sidecar.write_text(json.dumps(fields))
    tally.attack(number, lambda: mel_files.read_mel(mel_file, mel),
                 lambda found: np.array_equal(found, whole) and _agrees(sidecar, original))
  tally.report(count)


def _agrees(sidecar, original) -> bool:
  """Whether the fields but `name` are what they were."""
  found, expected = json.loads(sidecar.read_text('utf-8')), json.loads(original)
  return found | {'name': ''} == expected | {'name': ''}
