"""Prediction from the spectrogram: integers, frames and the prior in bytes."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from spectrograms import KINDS, MEL, TAPS, filters, mels, predict_all

from wavernn_jax import audio
from wavernn_jax.config import MelConfig
from wavernn_jax.models import hearing, prediction

# Integers


def plainly(taps_D, shift, known_D) -> int:
  """p̂ in Python's own integers."""
  total = sum(int(w) * int(s) for w, s in zip(taps_D, known_D, strict=True))
  rounded = (total + (1 << int(shift) >> 1)) >> int(shift)
  return min(max(rounded, -2**15), 2**15 - 1)


def square_wave(count: int) -> np.ndarray:
  return np.where(np.arange(count) // 50 % 2, 2**15 - 1, -2**15).astype(np.int16)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('signal', ['noise', 'square', 'extremes'])
def test_predictions_are_the_same_integers_in_any_order_and_on_any_engine(kind, signal):
  rng, found = np.random.default_rng(2), filters(mels(MEL, kind))
  pcm = {'noise': rng.integers(-2**15, 2**15, 120).astype(np.int16), 'square': square_wave(120),
         'extremes': rng.choice(np.int16([-2**15, 2**15 - 1]), 120)}[signal]
  row_T = rng.integers(0, len(found.shift), 120 - TAPS)
  windows = np.lib.stride_tricks.sliding_window_view(pcm, TAPS)[:-1]
  expected = [plainly(found.taps[f], found.shift[f], known)
              for f, known in zip(row_T, windows, strict=True)]
  order = rng.permutation(TAPS)
  stepwise = jax.jit(prediction.predict)
  np.testing.assert_array_equal(predict_all(found, pcm, row_T), expected)
  np.testing.assert_array_equal(
      stepwise(found.taps[row_T], found.shift[row_T], windows), expected)
  np.testing.assert_array_equal(
      stepwise(found.taps[row_T][:, order], found.shift[row_T], windows[:, order]), expected)
  sums = np.einsum('td,td->t', found.taps[row_T], windows.astype(np.int32))  # numpy, int32
  np.testing.assert_array_equal(prediction.finish(sums, found.shift[row_T]), expected)


EVERY = np.arange(-2**15, 2**15).astype(np.int16)


@pytest.mark.parametrize('predicted', [-2**15, -2**15 + 1, -1, 0, 1, 777, 2**15 - 1])
def test_residuals_and_samples_are_one_to_one(predicted):
  x = np.asarray(prediction.encode(EVERY, np.int32(predicted)))
  assert x.dtype == np.int16 and len(np.unique(x)) == 2**16
  np.testing.assert_array_equal(np.int16((x.astype(np.int64) + predicted) % 2**16
                                         - 2**16 * ((x + np.int64(predicted)) % 2**16 >= 2**15)),
                                EVERY)
  within = np.abs(EVERY.astype(int) - predicted) < 2**15
  np.testing.assert_array_equal(prediction.decode(x, predicted)[within], EVERY[within])


@hypothesis.given(st.integers(-2**15, 2**15 - 1), st.integers(-2**15, 2**15 - 1))
@hypothesis.settings(deadline=None, max_examples=50)
def test_a_drawn_residual_never_wraps(predicted, x):
  found = int(prediction.decode(np.int16(x), np.int32(predicted)))
  assert found == min(max(predicted + x, -2**15), 2**15 - 1)


# Frames


def test_a_silent_frame_after_others_is_predicted_as_they_are():
  """The last samples of an utterance are nearest to a frame beyond its end."""
  floor = audio.mel_floor(MEL)
  frames_FxBxM = mels(MEL, 'speech', 5)[:, None]
  frames_FxBxM[[0, 3, 4]] = floor
  found = prediction.outlast(frames_FxBxM, MEL)
  np.testing.assert_array_equal(found, frames_FxBxM[[1, 2, 2, 4]])


@pytest.mark.parametrize('center', [True, False])
def test_the_nearest_frame(center):
  mel = MelConfig(center=center)
  centres = np.arange(-1, 9) * mel.hop + audio.frame_offset(mel)
  samples = np.arange(-100, 2_000)
  found = prediction.nearest_frame(samples, mel)
  distance = np.abs(samples[:, None] - centres)
  np.testing.assert_array_equal(
      distance[np.arange(len(samples)), found + 1], distance.min(axis=1))


# The prior


@functools.cache
def laplace(ratio: float) -> np.ndarray:
  """P of every residual by a density ∝ exp(−|x|/b), b = ratio, in float64."""
  p = np.exp(-np.abs(np.arange(-2**15, 2**15)) / ratio)
  return p / p.sum()


@pytest.mark.parametrize('scale', [0.3, 4.0, 90.0, 2_000.0])
def test_the_prior_in_bytes_is_the_density_of_the_residual(scale):
  coarse, fine = audio.split_bytes(EVERY)
  log_ratio = np.float32(-0.4)
  slopes = hearing.priors(log_ratio, np.float32(scale), coarse)
  (slope_c, ramp_c), (slope_f, ramp_f) = slopes['coarse'], slopes['fine']
  p_coarse = jax.nn.softmax(slope_c * ramp_c.astype(np.float64))
  p_fine = jax.nn.softmax(np.asarray(slope_f)[::256, None].astype(np.float64) * ramp_f)
  found = np.asarray(p_coarse)[coarse] * np.asarray(p_fine)[coarse, fine]
  np.testing.assert_allclose(found, laplace(float(np.exp(log_ratio)) * scale), rtol=2e-3,
                             atol=1e-12)
