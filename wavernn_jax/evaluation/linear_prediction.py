"""The baseline of linear prediction from the mel, with Laplace residuals and no network.

It measures how much the spectrogram that conditions every model already says of the
next sample (models/prediction.py), so a network has to beat it. With σ, the scale that
the spectrogram expects in its frame, the residual x of a sample has the probability

    P(x) ∝ ∫ exp(−|y| / b) dy over x − ½ .. x + ½,   b = exp(a) σ,   −2¹⁵ ≤ x < 2¹⁵

and the one number a is chosen on training audio.
"""

import math

import jax
import numpy as np
from scipy import optimize

from wavernn_jax.config import MelConfig
from wavernn_jax.data import corpus
from wavernn_jax.models import prediction

_BLOCK_F = 64  # frames computed at once: one compilation, bounded memory
_LARGEST = 10.0  # |a|: scales of e^±10 times what the spectrogram says


def laplace_nats(x, scale) -> np.ndarray:
  """−ln P of 16-bit residuals under Laplace distributions of `scale` b > 0, float64."""
  size, scale = np.abs(np.asarray(x, np.float64)), np.asarray(scale, np.float64)
  step = 1 / scale
  # The mass of one value in units of that of all the line, twice: e^−|x|/b 2 sinh(1/2b),
  # as exponents, since e^1/2b of a narrow one would overflow; 0 has both sides' inner halves.
  outside = -(size - 0.5) * step + np.log(-np.expm1(-step)) - math.log(2)
  inside = np.log(-np.expm1(-step / 2))
  beyond = (np.exp(-(2**15 + 0.5) * step) + np.exp(-(2**15 - 0.5) * step)) / 2
  return np.log1p(-beyond) - np.where(size > 0, outside, inside)


class LinearPrediction:
  """Residuals of utterances, and the width of the Laplace distribution, from training audio."""

  def __init__(self, train, mel: MelConfig, taps: int, most_samples: int = 2_000_000):
    """Chooses a on utterances spread evenly over `train`, `most_samples` or little more."""
    self._mel, self._taps = mel, taps
    self._block = jax.jit(self._block_residuals)
    residuals = [self.residuals(u) for u in _spread(train, most_samples)]
    x_T, scale_T = (np.concatenate(part) for part in zip(*residuals, strict=True))
    self.log_width = float(optimize.minimize_scalar(
        lambda a: laplace_nats(x_T, np.exp(a) * scale_T).mean(),
        bounds=(-_LARGEST, _LARGEST), method='bounded', options={'xatol': 1e-3}).x)

  def nll(self, utterances) -> dict[str, float]:
    """Mean over the samples of whole held-out utterances."""
    nats = samples = 0
    for utterance in utterances:
      x_T, scale_T = self.residuals(utterance)
      nats += laplace_nats(x_T, np.exp(self.log_width) * scale_T).sum()
      samples += len(x_T)
    return {'nll': float(nats / samples) if samples else math.nan,
            'log_width': self.log_width, 'taps': self._taps}

  def residuals(self, utterance) -> tuple[np.ndarray, np.ndarray]:
    """x and σ of each sample of a whole utterance, which silence precedes."""
    mel, block = self._mel, _BLOCK_F * self._mel.hop
    pcm_T = utterance.read(0, utterance.samples, mel.sample_rate)
    blocks = -(-len(pcm_T) // block)
    padded_T = np.pad(pcm_T, (self._taps, blocks * block - len(pcm_T)))
    mel_FxM = corpus.utterance_mel(utterance, mel)
    missing = blocks * _BLOCK_F + 1 - len(mel_FxM)
    mel_FxM = np.pad(mel_FxM, ((1, max(missing, 0)), (0, 0)), mode='edge')
    parts = [self._block(padded_T[b * block:(b + 1) * block + self._taps],
                         mel_FxM[b * _BLOCK_F:(b + 1) * _BLOCK_F + 2]) for b in range(blocks)]
    x_T, scale_T = (np.concatenate(part)[:len(pcm_T)] for part in zip(*parts, strict=True))
    return x_T, scale_T

  def _block_residuals(self, pcm_N, mel_FxM):
    taps = self._taps
    found = prediction.spectral_filter(
        mel_FxM, np.ones((1, taps), bool), prediction.offsets(taps), self._mel)
    row_T = 1 + prediction.nearest_frame(np.arange(_BLOCK_F * self._mel.hop), self._mel)
    predicted_TxB = prediction.predict_all(
        found.taps.transpose(2, 1, 0), found.shift[row_T], pcm_N[:, None], row_T,
        prediction.offsets(taps), taps)
    return prediction.encode(pcm_N[taps:], predicted_TxB[:, 0]), found.scale[row_T, 0]


def _spread(utterances, most_samples: int) -> list:
  """Utterances spread evenly over the list that hold about `most_samples` samples."""
  samples = sum(u.samples for u in utterances)
  count = max(1, min(len(utterances), round(len(utterances) * most_samples / samples)))
  return [utterances[i * len(utterances) // count] for i in range(count)]
