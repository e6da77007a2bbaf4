"""Likelihood baselines and bootstrap intervals against closed forms."""

import json
import math

import hypothesis
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import numpy as np
import pytest
from scipy import signal, stats
import soundfile

from wavernn_jax import audio
from wavernn_jax.data.corpus import Utterance
from wavernn_jax.evaluation import baselines, evaluate, linear_prediction
from wavernn_jax.evaluation.bootstrap import ratio_interval


def _gaussian(samples: int, seed: int = 0) -> np.ndarray:
  return (np.random.default_rng(seed).normal(size=samples) * 2_000).astype(np.int16)


def test_uniform_is_two_bytes():
  assert baselines.uniform()['nll'] == pytest.approx(math.log(65_536))


def test_histogram_by_hand():
  """Bytes of 0 and -1: coarse 128 and 127, fine 0 and 255; 258 counts after smoothing."""
  histogram = baselines.ByteHistogram([np.array([0, -1], np.int16)])
  found = histogram.nll([np.array([0, 0, 257], np.int16)])  # coarse 128 128 129, fine 0 0 1
  expected = (2 * math.log(258 / 2) + math.log(258)) / 3
  assert found == pytest.approx(
      {'nll': 2 * expected, 'nll_coarse': expected, 'nll_fine': expected})


def test_histogram_nll_nears_the_entropy():
  pcm_T = _gaussian(400_000)
  found = baselines.ByteHistogram([pcm_T]).nll([pcm_T])
  coarse_V = np.histogram(pcm_T, bins=np.arange(-32_768, 32_769, 256))[0]
  assert found['nll_coarse'] == pytest.approx(stats.entropy(coarse_V), abs=0.005)
  assert found['nll_fine'] == pytest.approx(math.log(256), abs=0.005)


@hypothesis.given(
    train=st.lists(hnp.arrays(np.int16, st.integers(0, 50)), max_size=3),
    test=hnp.arrays(np.int16, st.integers(1, 50)), cut=st.integers(0, 50))
@hypothesis.settings(max_examples=30, deadline=None)
def test_histogram_is_finite_and_blind_to_cuts(train, test, cut):
  histogram = baselines.ByteHistogram(train)
  found = histogram.nll([test])
  assert 0 < found['nll_coarse'] < math.log(256 + 150) + 1e-9
  assert found['nll'] == pytest.approx(found['nll_coarse'] + found['nll_fine'])
  assert histogram.nll([test[:cut], test[cut:]]) == pytest.approx(found)
  probability_2xV = np.exp(histogram.log_probability_2xV)
  np.testing.assert_allclose(probability_2xV.sum(axis=1), 1)


def test_nothing_to_train_on_is_uniform_and_nothing_held_out_is_nan():
  histogram = baselines.ByteHistogram([])
  assert histogram.nll([_gaussian(9)]) == pytest.approx(baselines.uniform())
  assert math.isnan(histogram.nll([])['nll'])


def test_flac_is_the_size_of_its_files(tmp_path):
  pcms, size = [_gaussian(30_000), _gaussian(9_000, seed=1)], 0
  for pcm_T in pcms:
    soundfile.write(tmp_path / 'a.flac', pcm_T, 16_000, 'PCM_16')
    size += (tmp_path / 'a.flac').stat().st_size
  found = baselines.flac(pcms, 16_000)
  assert found['nll'] == pytest.approx(size * 8 * math.log(2) / 39_000)
  # White noise has no better code than its entropy; FLAC's comes near.
  entropy = 0.5 * math.log(2 * math.pi * math.e * 2_000**2)
  assert entropy < found['nll'] - found['nll_header'] < entropy + 0.08


def test_flac_header_is_what_more_of_the_same_does_not_add():
  """One frame of a constant costs next to nothing: the file is its header."""
  found = baselines.flac([np.zeros(4_096, np.int16)], 16_000)
  assert 0.75 < found['nll_header'] / found['nll'] < 1
  assert math.isnan(baselines.flac([], 16_000)['nll'])


@pytest.mark.parametrize('scale', [0.02, 0.3, 1.0, 40.0, 3e3, 1e6])
def test_laplace_sums_to_one_and_equals_its_integral(scale):
  x_V = np.arange(-2**15, 2**15)
  nats_V = linear_prediction.laplace_nats(x_V.astype(np.int16), np.full(2**16, scale))
  assert np.isfinite(nats_V).all()
  assert np.exp(-nats_V).sum() == pytest.approx(1, abs=1e-9)
  density = stats.laplace(scale=scale)
  whole = density.cdf(2**15 - 0.5) - density.cdf(-2**15 - 0.5)
  for x in (-3, -1, 0, 1, 7):
    mass = density.cdf(-abs(x) + 0.5) - density.cdf(-abs(x) - 0.5)
    if mass > 1e-12:
      assert nats_V[x + 2**15] == pytest.approx(-math.log(mass / whole), rel=1e-6, abs=1e-9)


def _utterance(pcm_T: np.ndarray, mel_FxM=None) -> Utterance:
  return Utterance(audio.AudioFile('x.wav', 8_000, 1, len(pcm_T)), len(pcm_T), b'', pcm_T, mel_FxM)


def _resonance(samples: int, seed: int) -> np.ndarray:
  """White noise of σ = 300 through one sharp resonance: 30 dB above the noise."""
  noise_T = np.random.default_rng(seed).normal(size=samples) * 300
  return signal.lfilter([1], [1, -1.7, 0.9], noise_T).astype(np.int16)


def test_linear_prediction_nears_the_entropy_of_an_autoregression(mel):
  """A Laplace code costs 0.07 nats more for Gaussian noise; a mel of the very noise saves some."""
  train, held_out = ([_utterance(_resonance(6_000, seed)) for seed in seeds]
                     for seeds in ((0, 1), (2, 3)))
  found = linear_prediction.LinearPrediction(train, mel, taps=24).nll(held_out)
  entropy = 0.5 * math.log(2 * math.pi * math.e * 300**2)
  assert found['nll'] == pytest.approx(entropy, abs=0.1)
  white = 0.5 * math.log(2 * math.pi * math.e * np.var(held_out[0].pcm))
  assert found['nll'] < white - 0.5  # what no prediction could reach


def test_linear_prediction_is_causal_and_the_same_over_blocks(mel):
  """Residuals are s − p̂ mod 2¹⁶ of the samples before and of the mel alone."""
  pcm_T = _resonance(8_000, 0)  # three blocks and a part
  mel_FxM = audio.utterance_log_mel(pcm_T, mel)
  model = linear_prediction.LinearPrediction([_utterance(pcm_T)], mel, taps=16)
  x_T, scale_T = model.residuals(_utterance(pcm_T, mel_FxM))
  assert len(x_T) == len(scale_T) == 8_000 and (scale_T > 0).all()
  changed_T = pcm_T.copy()
  changed_T[5_000] += 1_000
  found_T, _ = model.residuals(_utterance(changed_T, mel_FxM))
  assert np.flatnonzero(found_T != x_T)[[0, -1]].tolist() == [5_000, 5_016]
  assert found_T[5_000] == x_T[5_000] + 1_000
  later_T, later_scale_T = model.residuals(  # frames in other blocks, the same filters
      _utterance(np.concatenate([np.zeros(7 * mel.hop, np.int16), pcm_T]),
                 np.concatenate([np.repeat(mel_FxM[:1], 7, 0), mel_FxM])))
  np.testing.assert_array_equal(later_T[7 * mel.hop:], x_T)
  np.testing.assert_array_equal(later_scale_T[7 * mel.hop:], scale_T)


def test_linear_prediction_chooses_the_width_on_train(mel):
  """The least of the training nats; a louder residual than the mel says makes it wider."""
  pcm_T = _resonance(6_000, 0)
  train = [_utterance(pcm_T)]
  model = linear_prediction.LinearPrediction(train, mel, taps=16)
  def mean(log_width):
    x_T, scale_T = model.residuals(train[0])
    return linear_prediction.laplace_nats(x_T, np.exp(log_width) * scale_T).mean()
  assert mean(model.log_width) < min(mean(model.log_width + 0.1), mean(model.log_width - 0.1))
  assert model.nll(train)['nll'] == pytest.approx(mean(model.log_width))
  quiet = [_utterance(pcm_T, audio.utterance_log_mel(pcm_T, mel) - np.float32(1))]
  wider = linear_prediction.LinearPrediction(quiet, mel, taps=16)
  assert wider.log_width == pytest.approx(model.log_width + 1, abs=0.02)


def test_width_is_chosen_on_a_part_spread_over_train():
  utterances = [_utterance(np.zeros(1_000, np.int16)) for _ in range(20)]
  chosen = linear_prediction._spread(utterances, 4_000)
  assert [next(i for i, u in enumerate(utterances) if u is c) for c in chosen] == [0, 5, 10, 15]
  assert linear_prediction._spread(utterances, 10**9) == utterances
  assert len(linear_prediction._spread(utterances, 1)) == 1


def test_baseline_summary_orders_what_is_known_of_speech(speech, mel):
  """Each of them knows more of the signal than the one before it."""
  train, held_out = ([_utterance(speech(0.8, seed=seed)) for seed in seeds]
                     for seeds in ((1, 2), (3,)))
  found = evaluate.baseline_summary(train, held_out, mel)
  flac = found['flac']['nll'] - found['flac']['nll_header']
  assert (found['uniform']['nll'] > found['histogram']['nll'] > flac
          > found['linear_prediction']['nll'] > 3)
  assert found['linear_prediction']['taps'] == 128  # no more lags in this mel's n_fft
  json.dumps(found, allow_nan=False)


@pytest.mark.parametrize('shift', [6.0, 0.0], ids=['nll', 'paired difference'])
def test_interval_nears_the_delta_method(shift):
  rng = np.random.default_rng(0)
  counts_U = rng.integers(20_000, 200_000, 500)
  sums_U = counts_U * rng.normal(shift, 0.3, 500)
  ratio = sums_U.sum() / counts_U.sum()
  error = np.std(sums_U - ratio * counts_U) / math.sqrt(500) / counts_U.mean()
  low, high = ratio_interval(sums_U, counts_U, resamples=4_000, seed=1)
  assert low == pytest.approx(ratio - 1.96 * error, abs=0.15 * error)
  assert high == pytest.approx(ratio + 1.96 * error, abs=0.15 * error)


def test_interval_covers_the_truth_about_as_often_as_it_says():
  rng = np.random.default_rng(0)
  hits = 0
  for trial in range(200):
    counts_U = rng.integers(50, 150, 40)
    low, high = ratio_interval(
        counts_U * rng.normal(6, 1, 40), counts_U, resamples=300, seed=trial, level=0.8)
    hits += low <= 6 <= high
  assert 140 <= hits <= 175  # 160 expected; a percentile interval of 40 is a little narrow


def test_interval_resamples_sums_and_counts_together():
  """Equal nats/sample everywhere leave nothing uncertain, whatever the lengths."""
  counts_U = np.arange(1, 30)
  low, high = ratio_interval(6.5 * counts_U, counts_U, resamples=200, seed=0)
  assert low == pytest.approx(6.5) and high == pytest.approx(6.5)


def test_interval_depends_on_the_seed_only():
  data = np.arange(10.0), np.full(10, 4)
  assert ratio_interval(*data, 100, seed=3) == ratio_interval(*data, 100, seed=3)
  assert ratio_interval(*data, 100, seed=3) != ratio_interval(*data, 100, seed=4)


@pytest.mark.parametrize('utterances', [0, 1])
def test_one_utterance_has_no_interval(utterances):
  interval = ratio_interval(np.ones(utterances), np.ones(utterances), 100, seed=0)
  assert np.isnan(interval).all()
