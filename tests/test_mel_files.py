"""Log mels of other programs: conventions told apart, files read and written."""

import dataclasses
import json

import numpy as np
import pytest
from speech_like import PRESETS, expect_error, speech_like

from wavernn_jax import audio
from wavernn_jax.config import MelConfig, mel_preset
from wavernn_jax.data import mel_files


@pytest.mark.parametrize('name', PRESETS)
def test_check_mel_accepts_its_own(name):
  mel = mel_preset(name)
  rng = np.random.default_rng(0)
  noise = np.clip(rng.standard_normal(9_000) * 9_000, -32_768, 32_767).astype(np.int16)
  square = np.where(np.arange(9_000) // 64 % 2, 32_767, -32_768).astype(np.int16)
  sine = (32_767 * np.sin(np.arange(9_000) * 0.15)).astype(np.int16)
  tail = np.r_[speech_like(), np.zeros(9_000, np.int16)]
  for pcm in (speech_like(), noise[:4_000] // 8, square, sine, tail, square * 0):
    log_mel = audio.utterance_log_mel(pcm, mel)
    for array in (log_mel.T, log_mel, log_mel.T[None], log_mel.astype(np.float64)):
      np.testing.assert_array_equal(mel_files.check_mel(array, mel, 'a.npy'), log_mel)
    half = mel_files.check_mel(log_mel.T.astype(np.float16), mel, 'a.npy')
    np.testing.assert_allclose(half, log_mel, atol=0.01)


def test_check_mel_takes_squares_as_bands_first():
  square = audio.utterance_log_mel(speech_like(), MelConfig())[:80]
  np.testing.assert_array_equal(mel_files.check_mel(square.T, MelConfig(), 'a'), square)


@pytest.mark.parametrize('change, found', [
    (lambda m: m / np.log(10), 'recurs'),  # log 10
    (lambda m: np.maximum(m, -9.2), 'recurs'),  # clamp 1e-4
    (np.exp, 'at most'),  # no log
    (lambda m: 20 / np.log(10) * m, 'below the floor'),  # dB
    (lambda m: 2 * m, 'below the floor'),  # power
    (lambda m: (m - m.min()) / np.ptp(m), 'near the floor'),  # normalised to 0..1
    (lambda m: 4 * (m - m.min()) / np.ptp(m), 'at most'),  # normalised to 0..4
    (lambda m: np.zeros_like(m), 'constant'),
    (lambda m: np.where(m > 0, np.nan, m), 'NaN'),
    (lambda m: m[:, :79], '79.*80 bands'),
    (lambda m: m[:0], 'shape'),
    (lambda m: m[0], 'shape'),
    (lambda m: (m * 100).astype(np.int16), 'int16'),
])
def test_check_mel_rejects_other_conventions(change, found):
  log_mel = audio.utterance_log_mel(speech_like(), MelConfig())
  with expect_error('some.npy', found):
    mel_files.check_mel(change(log_mel), MelConfig(), 'some.npy')


def test_slack_admits_predicted_mels():
  log_mel = audio.utterance_log_mel(speech_like(), MelConfig())
  predicted = log_mel - np.random.default_rng(0).random(log_mel.shape) * 0.3
  with expect_error('below the floor'):
    mel_files.check_mel(predicted, MelConfig(), 'some.npy')
  mel_files.check_mel(predicted, MelConfig(), 'some.npy', slack=0.3)


def test_mel_files(tmp_path):
  mel, path = mel_preset('hifigan'), tmp_path / 'a.npy'
  log_mel = audio.utterance_log_mel(speech_like(0.2, 22_050), mel)
  mel_files.write_mel(path, log_mel, mel)
  np.testing.assert_array_equal(np.load(path), log_mel.T)
  assert MelConfig(**json.loads((tmp_path / 'a.mel.json').read_text())) == mel
  np.testing.assert_array_equal(mel_files.read_mel(path, mel), log_mel)
  renamed = dataclasses.replace(mel, name='mine')
  np.testing.assert_array_equal(mel_files.read_mel(path, renamed), log_mel)
  with expect_error('a.mel.json', 'center .found False, expected True', 'power_floor'):
    mel_files.read_mel(path, mel_preset('tacotron2'))

  (tmp_path / 'a.mel.json').rename(tmp_path / 'mel.json')
  np.testing.assert_array_equal(mel_files.read_mel(path, mel), log_mel)
  with expect_error('mel.json', 'hop .found 256, expected 128'):
    mel_files.read_mel(path, dataclasses.replace(mel, hop=128))
  (tmp_path / 'mel.json').write_text('{')
  with expect_error('mel.json', 'cannot be read'):
    mel_files.read_mel(path, mel)


def test_bad_mel_files(tmp_path):
  np.save(tmp_path / 'pickle.npy', np.array([{}, None]), allow_pickle=True)
  (tmp_path / 'text.npy').write_text('hello')
  (tmp_path / 'empty.npy').touch()
  for name in ('pickle.npy', 'text.npy', 'empty.npy', 'none.npy'):
    with expect_error(name, 'cannot be read', r'\.npy file'):
      mel_files.read_mel(tmp_path / name, MelConfig())
  with expect_error('no/a.mel.json', 'cannot be written'):
    mel_files.write_mel(tmp_path / 'no' / 'a.npy', np.zeros((2, 80)), MelConfig())
