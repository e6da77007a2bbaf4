"""What lanes could gain and lose: entropies of a Gaussian process with speech's spectra (§4).

    python -m experiments.benchmarks.lane_entropies --speech=DIR

For random windows of held-out speech, the differential entropy of each sample
given those drawn before it, in the plain order and with the window folded into
lanes, under the Gaussian process of the window's autocovariance: the means over
the middle of the window, where both sides are known. The orders have the same sum;
by lane they say how a model's nats would be spread if it used all that a lane may
see.

`loudness` is what it costs lanes that weights of the spectrum do not know how loud the
excitation is at each moment. In each window the squares of the innovations, smoothed by a
Gaussian of so many samples, are taken for the local variance of the excitation; the cost is the
entropy of what the weights of the spectrum leave, its variances known, less that under the
process itself. Plain weights, a filter of what came before, are right at any loudness.

The last line is one JSON object, in nats/sample.
"""

from absl import flags
import numpy as np
from scipy import ndimage
import scipy.linalg

from experiments import cli
from experiments.benchmarks import measure
from wavernn_jax import config as config_lib
from wavernn_jax.data import corpus

_DATA = flags.DEFINE_string('speech', None, 'Corpus with train, valid and test.')
_LANES = flags.DEFINE_integer('lanes', 16, 'Number of lanes, S.')
_WINDOW = flags.DEFINE_integer('window', 1024, 'Samples of a window.')
_WINDOWS = flags.DEFINE_integer('windows', 200, 'Number of windows.')
_WIDTHS = flags.DEFINE_multi_float('width', [40, 12, 5], 'Standard deviations, in samples, of '
                                   'the windows that loudness is smoothed with.')
_ROUNDING = 1 / 12  # variance of the rounding to 16 bits


def autocovariance(pcm_T):
  """Of a Hann-windowed piece, T lags; positive definite with the rounding's variance."""
  window = np.hanning(len(pcm_T))
  power = np.abs(np.fft.rfft(pcm_T * window, 2 * len(pcm_T)))**2
  result = np.fft.irfft(power)[:len(pcm_T)] / (window**2).sum()
  result[0] += _ROUNDING
  return result


def entropies(covariance_TxT, order):
  """Nats of each sample given those before it in an order, in that order."""
  scale = np.diag(np.linalg.cholesky(covariance_TxT[np.ix_(order, order)]))
  return np.log(scale) + 0.5 * np.log(2 * np.pi * np.e)


def of_fixed_weights(covariance_TxT, true_TxT, order):
  """As `entropies` of what the weights of one process leave of another, in a given order."""
  factor = np.linalg.cholesky(covariance_TxT[np.ix_(order, order)])
  weights = np.diag(factor)[:, None] * scipy.linalg.solve_triangular(
      factor, np.eye(len(factor)), lower=True)
  power = ((weights @ true_TxT[np.ix_(order, order)]) * weights).sum(axis=1)
  return 0.5 * np.log(2 * np.pi * np.e * power)


def of_loudness(covariance_TxT, pcm_T, width: float):
  """The covariance with an excitation of the piece's own loudness, of mean 1."""
  factor = np.linalg.cholesky(covariance_TxT)
  innovation_T = scipy.linalg.solve_triangular(factor, pcm_T, lower=True)
  power_T = ndimage.gaussian_filter1d(innovation_T**2, width, mode='nearest')
  return factor * (power_T / power_T.mean()) @ factor.T


def folded_order(samples: int, lanes: int) -> np.ndarray:
  """A lane after the other."""
  return np.arange(samples).reshape(-1, lanes).T.ravel()


def middle(folded, lanes: int):
  """By lane [S], means over the middle half of a piece, where both sides are known."""
  folded = folded.reshape(lanes, -1)
  quarter = folded.shape[1] // 4
  return folded[:, quarter:-quarter].mean(axis=1)


def lane_entropies(pcm_T, lanes: int):
  """Means (plain, by lane [S]) over the middle of a piece, T a multiple of S."""
  covariance = scipy.linalg.toeplitz(autocovariance(pcm_T))
  plain = entropies(covariance, np.arange(len(pcm_T)))
  folded = entropies(covariance, folded_order(len(pcm_T), lanes))
  return plain[len(plain) // 2:].mean(), middle(folded, lanes)


def price(pcm_T, lanes: int, width: float) -> float:
  """What lanes lose by the weights of the spectrum where the loudness is the piece's own."""
  covariance = scipy.linalg.toeplitz(autocovariance(pcm_T))
  true, order = of_loudness(covariance, pcm_T, width), folded_order(len(pcm_T), lanes)
  return middle(of_fixed_weights(covariance, true, order) - entropies(true, order), lanes).mean()


def main():
  rng, config = np.random.default_rng(0), config_lib.Config()
  config.data.dir = _DATA.value
  held_out = corpus.load_utterances(corpus.split_files(config.data)['valid'], config.data,
                                    config.mel, _WINDOW.value)
  plain, by_lane, loudness = [], [], {width: [] for width in _WIDTHS.value}
  for _ in range(_WINDOWS.value):
    utterance = held_out[rng.integers(len(held_out))]
    first = int(rng.integers(utterance.samples - _WINDOW.value + 1))
    pcm = utterance.read(first, first + _WINDOW.value, config.mel.sample_rate).astype(float)
    found = lane_entropies(pcm, _LANES.value)
    plain.append(found[0])
    by_lane.append(found[1])
    for width, prices in loudness.items():
      prices.append(price(pcm, _LANES.value, width))
  measure.report({'plain': float(np.mean(plain)), 'folded': float(np.mean(by_lane)),
                  'lanes': np.mean(by_lane, axis=0).round(3).tolist(),
                  'loudness': {width: float(np.mean(prices)) for width, prices in
                               loudness.items()}})


if __name__ == '__main__':
  flags.mark_flag_as_required('speech')
  cli.run(main)
