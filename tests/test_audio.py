"""Audio: bytes, files and mel spectrograms, against soundfile and librosa."""

import dataclasses

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest
import soundfile
import soxr
from speech_like import PRESETS, expect_error, speech_like

from wavernn_jax import audio
from wavernn_jax.config import MelConfig, mel_preset

SMALL = MelConfig(name='small', sample_rate=8_000, n_fft=256, window=200, hop=64,
                  bands=20, fmax=4_000.0)


def reference(pcm, mel):
  """librosa's log mel in float64, FxM."""
  signal = pcm / 32_768
  if not mel.center:
    signal = np.pad(signal, (mel.n_fft - mel.hop) // 2, mode=mel.pad_mode)
  stft = librosa.stft(signal, n_fft=mel.n_fft, hop_length=mel.hop, win_length=mel.window,
                      center=mel.center, pad_mode=mel.pad_mode)
  filters = librosa.filters.mel(
      sr=mel.sample_rate, n_fft=mel.n_fft, n_mels=mel.bands, fmin=mel.fmin,
      fmax=mel.fmax, htk=mel.mel_scale == 'htk',
      norm='slaney' if mel.mel_norm == 'slaney' else None)
  spectrum = (np.abs(stft)**2 + mel.power_floor) ** (mel.power / 2)
  log = {'e': np.log, '10': np.log10}[mel.log]
  return log(np.maximum(filters @ spectrum, mel.clamp)).T


# Bytes


@pytest.mark.parametrize('backend', [np.asarray, jnp.asarray])
@pytest.mark.parametrize('wrap', [lambda f: f, jax.jit])
def test_bytes_round_trip(backend, wrap):
  pcm = backend(np.arange(-32_768, 32_768).astype(np.int16))
  coarse, fine = wrap(audio.split_bytes)(pcm)
  np.testing.assert_array_equal(coarse, np.arange(65_536) // 256)
  np.testing.assert_array_equal(fine, np.arange(65_536) % 256)
  joined = wrap(audio.join_bytes)(coarse.astype(np.uint8), fine.astype(np.uint8))
  assert joined.dtype == np.int16
  np.testing.assert_array_equal(joined, pcm)
  scaled = wrap(audio.scale_byte)(backend(np.array([0, 51, 255])))
  assert scaled.dtype == np.float32
  np.testing.assert_allclose(scaled, [-1, -0.6, 1], atol=1e-7)


# Files


@pytest.mark.parametrize('extension', ['wav', 'flac'])
@pytest.mark.parametrize('subtype', ['PCM_16', 'PCM_24'])
@pytest.mark.parametrize('channels', [1, 2])
def test_reading_by_seeking_equals_slices(tmp_path, extension, subtype, channels):
  path = tmp_path / f'a.{extension}'
  rng = np.random.default_rng(0)
  steps_TxC = rng.integers(-2**23, 2**23, (9_001, channels)) >> 8 << 8
  if subtype == 'PCM_24':
    steps_TxC += rng.integers(0, 256, steps_TxC.shape)
  steps_TxC[0] = 2**23 - 256  # the highest 16-bit sample
  soundfile.write(path, (steps_TxC << 8).astype(np.int32), 24_000, subtype)
  whole = np.clip(np.rint(steps_TxC.mean(1) / 256), -32_768, 32_767)

  file = audio.open_audio(path)
  assert (file.sample_rate, file.channels, file.frames) == (24_000, channels, 9_001)
  np.testing.assert_array_equal(audio.read_audio(path, 24_000), whole)
  for start, stop in [(0, 1), (17, 17), (4_090, 4_100), (5_000, 9_001), (9_000, 9_001)]:
    part = file.read(start, stop)
    assert part.dtype == np.int16
    np.testing.assert_array_equal(part, whole[start:stop])
  with pytest.raises(ValueError, match='9001'):
    file.read(9_000, 9_002)


def test_float_files_are_rounded_and_clipped_with_a_warning(tmp_path, recwarn):
  values = np.array([0, 0.5, -1, 1, 1.4 / 32_768, 1.6 / 32_768], np.float32)
  soundfile.write(tmp_path / 'a.wav', values, 24_000, 'FLOAT')
  np.testing.assert_array_equal(audio.read_audio(tmp_path / 'a.wav', 24_000),
                                [0, 16_384, -32_768, 32_767, 1, 2])
  assert not recwarn
  soundfile.write(tmp_path / 'loud.wav', values * 1.5, 24_000, 'FLOAT')
  with pytest.warns(UserWarning, match='loud.wav.*clipped'):
    pcm = audio.open_audio(tmp_path / 'loud.wav').read(0, 4)
  np.testing.assert_array_equal(pcm, [0, 24_576, -32_768, 32_767])


def test_resampling_keeps_a_tone(tmp_path):
  def tone(rate):
    return 8_000 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)
  soundfile.write(tmp_path / 'a.flac', np.rint(tone(44_100)).astype(np.int16), 44_100)
  pcm = audio.read_audio(tmp_path / 'a.flac', 24_000)
  assert pcm.dtype == np.int16 and len(pcm) == 24_000
  np.testing.assert_allclose(pcm[500:-500], tone(24_000)[500:-500], atol=1.5)
  expected = soxr.resample(np.rint(tone(44_100)), 44_100, 24_000, 'VHQ')
  np.testing.assert_array_equal(pcm, np.rint(expected))


def test_write_wav_round_trip_replaces_the_file(tmp_path):
  for pcm in (speech_like(0.1), speech_like(0.05)):
    audio.write_wav(tmp_path / 'a.wav', pcm, 22_050)
    np.testing.assert_array_equal(audio.read_audio(tmp_path / 'a.wav', 22_050), pcm)
  assert [p.name for p in tmp_path.iterdir()] == ['a.wav']
  with expect_error('no/a.wav', 'cannot be written', 'folder'):
    audio.write_wav(tmp_path / 'no' / 'a.wav', pcm, 22_050)
  with pytest.raises(TypeError, match='float64'):
    audio.write_wav(tmp_path / 'b.wav', pcm / 2, 22_050)


def test_bad_files(tmp_path):
  pcm = speech_like(0.5)
  soundfile.write(tmp_path / 'empty.wav', pcm[:0], 24_000)
  soundfile.write(tmp_path / 'nan.wav', np.array([0, np.nan, 1]), 24_000, 'FLOAT')
  (tmp_path / 'text.flac').write_text('hello')
  for extension in ('wav', 'flac'):
    path = tmp_path / f'cut.{extension}'
    soundfile.write(path, pcm, 24_000)
    path.write_bytes(path.read_bytes()[:-3_000])
  for name, found in [('empty.wav', 'no samples'), ('nan.wav', 'NaN'),
                      ('text.flac', 'cannot be read'), ('none.wav', 'no such file'),
                      ('cut.wav', 'truncated: found'), ('cut.flac', 'truncated')]:
    with expect_error(name, found):
      audio.read_audio(tmp_path / name, 24_000)


def test_streamed_headers(tmp_path):
  pcm, path = speech_like(0.1), tmp_path / 'streamed.wav'
  soundfile.write(path, pcm, 24_000)
  content = bytearray(path.read_bytes())
  content[40:44] = b'\xff' * 4  # the length that ffmpeg writes to a pipe
  path.write_bytes(content)
  np.testing.assert_array_equal(audio.read_audio(path, 24_000), pcm)
  flac = tmp_path / 'streamed.flac'
  soundfile.write(flac, pcm, 24_000)
  content = bytearray(flac.read_bytes())
  content[21] &= 0xF0
  content[22:26] = bytes(4)
  flac.write_bytes(content)
  with expect_error('streamed.flac', 'no length'):
    audio.open_audio(flac)


# Mel spectrograms


@pytest.mark.parametrize('name', PRESETS)
def test_log_mel_equals_librosa(name):
  mel = mel_preset(name)
  pcm = speech_like(rate=mel.sample_rate)
  expected = reference(pcm, mel)
  assert expected.min() < np.log(1e-4) / (np.log(10) if mel.log == '10' else 1)
  found = audio.utterance_log_mel(pcm, mel)
  assert found.dtype == np.float32
  np.testing.assert_allclose(found, expected, atol=1e-3)
  window = audio.pad_edges(pcm / np.float32(32_768), mel)
  both = audio.log_mel(jnp.stack([window, window[::-1]]), mel)
  np.testing.assert_allclose(both[0], expected, atol=1e-3)
  np.testing.assert_allclose(
      both[1], audio.log_mel(window[None, ::-1], mel)[0], atol=1e-3)


def test_librosa_one_call():
  mel = mel_preset('tacotron2')
  pcm = speech_like(rate=mel.sample_rate)
  expected = librosa.feature.melspectrogram(
      y=pcm / 32_768, sr=mel.sample_rate, n_fft=1024, hop_length=256, n_mels=80, fmin=0,
      fmax=8_000, power=1, pad_mode='reflect')
  np.testing.assert_allclose(audio.utterance_log_mel(pcm, mel),
                             np.log(np.maximum(expected, 1e-5)).T, atol=1e-3)


@pytest.mark.parametrize('changes', [
    dict(mel_scale='htk', mel_norm='none'), dict(power=2.0, log='10', clamp=1e-10),
    dict(pad_mode='constant', hop=50), dict(center=False, window=256, power_floor=1e-6)])
def test_other_conventions_equal_librosa(changes):
  mel = dataclasses.replace(SMALL, **changes)
  pcm = speech_like(0.5, 8_000)
  np.testing.assert_allclose(
      audio.utterance_log_mel(pcm, mel), reference(pcm, mel), atol=1e-3)


@pytest.mark.parametrize('name', PRESETS)
def test_silence_is_the_floor(name):
  mel = mel_preset(name)
  found = audio.utterance_log_mel(np.zeros(5_000, np.int16), mel)
  np.testing.assert_allclose(found, audio.mel_floor(mel), rtol=1e-6)


@pytest.mark.parametrize('name', ['wavernn24k', 'hifigan'])
def test_frames_are_centred_on_their_offset(name):
  mel = mel_preset(name)
  frame = 12
  pcm = np.zeros(24 * mel.hop + mel.hop, np.int16)
  centre = frame * mel.hop + audio.frame_offset(mel)
  pcm[centre - 200:centre + 201] = 8_000 * np.hanning(401) * np.cos(np.arange(-200, 201))
  energy = np.exp(audio.utterance_log_mel(pcm, mel)).sum(1)
  assert energy.argmax() == frame
  np.testing.assert_allclose(energy[frame - 3:frame], energy[frame + 3:frame:-1], rtol=0.02)


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(samples=st.integers(0, 3_000), center=st.booleans(),
                  seed=st.integers(0, 9))
def test_frames_of_every_length(samples, center, seed):
  mel = dataclasses.replace(SMALL, center=center)
  pcm = speech_like(1, 8_000, seed)[:samples]
  found = audio.utterance_log_mel(pcm, mel)
  assert len(found) == audio.frame_count(samples, mel)
  assert len(found) == (samples // mel.hop + center if samples else 0)
  if samples > mel.n_fft:
    np.testing.assert_allclose(found, reference(pcm, mel), atol=1e-3)


def test_long_utterances_are_computed_in_pieces():
  pcm = np.tile(speech_like(1, 8_000), 6)
  frames = audio.frame_count(len(pcm), SMALL)
  assert frames > 2 * audio._CHUNK_F
  np.testing.assert_allclose(
      audio.utterance_log_mel(pcm, SMALL), reference(pcm, SMALL), atol=1e-3)


def test_crops_equal_the_utterance():
  """A window of f frames around a crop gives the frames of the whole utterance."""
  pcm = speech_like(1, 8_000)
  whole = audio.utterance_log_mel(pcm, SMALL)
  padded = audio.pad_edges(pcm, SMALL)
  for first in (0, 7, 50):
    window = padded[first * SMALL.hop:][:4 * SMALL.hop + SMALL.n_fft]
    np.testing.assert_allclose(
        audio.log_mel(window[None], SMALL)[0], whole[first:first + 5], atol=1e-5)
  with pytest.raises(ValueError, match='255'):
    audio.log_mel(padded[None, :255], SMALL)
