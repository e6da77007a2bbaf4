"""What lanes could gain and lose: entropies of a Gaussian process with speech's spectra (§4).

    python -m experiments.benchmarks.lane_entropies --speech=DIR

For random windows of held-out speech, the differential entropy of each sample
given those drawn before it, in the plain order and with the window folded into
lanes, under the Gaussian process of the window's autocovariance: the means over
the middle of the window, where both sides are known. The orders have the same sum;
by lane they say how a model's nats would be spread if it used all that a lane may
see. The last line is one JSON object, in nats/sample.
"""

from absl import flags
import numpy as np
import scipy.linalg

from experiments import cli
from experiments.benchmarks import measure
from wavernn_jax import config as config_lib
from wavernn_jax.data import corpus

_DATA = flags.DEFINE_string('speech', None, 'Corpus with train, valid and test.')
_LANES = flags.DEFINE_integer('lanes', 16, 'Number of lanes, S.')
_WINDOW = flags.DEFINE_integer('window', 1024, 'Samples of a window.')
_WINDOWS = flags.DEFINE_integer('windows', 200, 'Number of windows.')
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


def lane_entropies(pcm_T, lanes: int):
  """Means (plain, by lane [S]) over the middle half of a piece, T a multiple of S."""
  covariance = scipy.linalg.toeplitz(autocovariance(pcm_T))
  plain = entropies(covariance, np.arange(len(pcm_T)))
  order = np.arange(len(pcm_T)).reshape(-1, lanes).T.ravel()
  folded = entropies(covariance, order).reshape(lanes, -1)
  quarter = folded.shape[1] // 4
  return plain[len(plain) // 2:].mean(), folded[:, quarter:-quarter].mean(axis=1)


def main():
  rng, config = np.random.default_rng(0), config_lib.Config()
  config.data.dir = _DATA.value
  held_out = corpus.load_utterances(corpus.split_files(config.data)['valid'], config.data,
                                    config.mel, _WINDOW.value)
  plain, by_lane = [], []
  for _ in range(_WINDOWS.value):
    utterance = held_out[rng.integers(len(held_out))]
    first = int(rng.integers(utterance.samples - _WINDOW.value + 1))
    pcm = utterance.read(first, first + _WINDOW.value, config.mel.sample_rate).astype(float)
    found = lane_entropies(pcm, _LANES.value)
    plain.append(found[0])
    by_lane.append(found[1])
  measure.report({'plain': float(np.mean(plain)), 'folded': float(np.mean(by_lane)),
                  'lanes': np.mean(by_lane, axis=0).round(3).tolist()})


if __name__ == '__main__':
  flags.mark_flag_as_required('speech')
  cli.run(main)
