"""Held-out likelihood over whole utterances with carried state."""

import functools

import numpy as np

from wavernn_jax import audio, backend
from wavernn_jax.config import EvaluationConfig, MelConfig
from wavernn_jax.data import corpus
from wavernn_jax.evaluation import baselines, bootstrap, linear_prediction

_TAPS = 192  # of linear prediction: 256 gain 0.004 nats/sample on 24 kHz speech, 16 lose 0.19


class Evaluator:
  """Likelihood of utterances under a model; compiled once for all parameters."""

  def __init__(self, model, config: EvaluationConfig):
    self._model, self._config = model, config
    self._block_nats = backend.jit(functools.partial(_block_nats, model))

  def utterance_nats(self, params, utterances, progress=lambda samples: None):
    """Sums of nats over each utterance: {'coarse': U, 'fine': U}, and samples U."""
    sums, samples = self.lane_nats(params, utterances, progress)
    return {byte: s.sum(axis=1) for byte, s in sums.items()}, samples

  def lane_nats(self, params, utterances, progress=lambda samples: None):
    """`utterance_nats` apart for the S lanes of the model: {'coarse': UxS, 'fine': UxS}.

    Utterances are rows of a batch that runs block by block with carried
    state; what pads a row carries no likelihood.
    """
    order = np.argsort([-u.samples for u in utterances], kind='stable')
    shape = len(utterances), self._model.timing.lanes
    sums = {byte: np.zeros(shape) for byte in ('coarse', 'fine')}
    for first in range(0, len(order), self._config.batch):
      lanes = order[first:first + self._config.batch]
      for byte, nats in self._batch_nats(params, [utterances[i] for i in lanes],
                                         progress).items():
        sums[byte][lanes] = nats[:len(lanes)]
    return sums, np.array([u.samples for u in utterances])

  def _batch_nats(self, params, utterances, progress):
    model, mel, frames = self._model, self._model.mel, self._config.block_frames
    block = frames * mel.hop
    blocks = -(-max(u.samples for u in utterances) // block)
    batch = self._config.batch
    pcm = np.zeros((batch, blocks * block + model.timing.ahead), np.int16)
    mels = np.full((batch, blocks * frames + 2 * model.timing.margin, mel.bands),
                   audio.mel_floor(mel), np.float32)
    lengths = np.zeros(batch, int)
    for lane, u in enumerate(utterances):
      lengths[lane] = u.samples
      pcm[lane, :u.samples] = u.read(0, u.samples, mel.sample_rate)
      mel_FxM = corpus.utterance_mel(u, mel)
      mels[lane, model.timing.margin:model.timing.margin + len(mel_FxM)] = mel_FxM
    state, sums = model.initial_state(batch), {'coarse': 0.0, 'fine': 0.0}
    for b in range(blocks):
      inside = np.clip(lengths - b * block, 0, block)
      nats, state = self._block_nats(
          params, state, pcm[:, b * block:(b + 1) * block + model.timing.ahead],
          mels[:, b * frames:(b + 1) * frames + 2 * model.timing.margin], inside)
      # Sums over blocks in float64: an utterance has up to 10⁶ samples.
      sums = {byte: sums[byte] + np.asarray(n, np.float64) for byte, n in nats.items()}
      progress(int(inside.sum()))
    return sums


def _block_nats(model, params, state, pcm_BxT, mel_BxFxM, inside_B):
  nats, state = model.nats(params, state, pcm_BxT, mel_BxFxM)
  mask = np.arange(nats['coarse'].shape[1]) < inside_B[:, None]
  return {byte: (n * mask).reshape(len(n), -1, model.timing.lanes).sum(axis=1)
          for byte, n in nats.items()}, state


def summary(sums, samples_U, config: EvaluationConfig, seed: int = 0) -> dict:
  """Nats/sample in all, with 95% bootstrap intervals over utterances.

  Args:
    sums, samples_U: of `Evaluator.utterance_nats`.
    config: `bootstrap` resamplings.
    seed: of the resampling.
  """
  parts = {'nll': sum(sums.values()), **{f'nll_{byte}': s for byte, s in sums.items()}}
  result = {name: float(s.sum() / samples_U.sum()) for name, s in parts.items()}
  for name, s in parts.items():
    low, high = bootstrap.ratio_interval(s, samples_U, config.bootstrap, seed)
    result[f'{name}_interval'] = (
        [low, high] if np.isfinite([low, high]).all() else None)  # one utterance: none
  return result | {'utterances': len(samples_U), 'samples': int(samples_U.sum())}


def by_utterance(utterances, sums, samples_U) -> dict:
  """{name: {samples, nats_coarse, nats_fine}}, summed over each utterance."""
  return {u.name: {'samples': int(samples_U[i]),
                   **{f'nats_{byte}': float(s[i]) for byte, s in sums.items()}}
          for i, u in enumerate(utterances)}


def lane_summary(sums, samples_U) -> dict:
  """Nats/sample of each lane, `nll_lanes`; nothing for a model of one lane.

  Args:
    sums, samples_U: of `Evaluator.lane_nats`.
  """
  total_S = sum(sums.values()).sum(axis=0)
  lanes = len(total_S)
  counts_S = -(-(samples_U[:, None] - np.arange(lanes)) // lanes).sum(axis=0)
  return {'nll_lanes': (total_S / counts_S).tolist()} if lanes > 1 else {}


def baseline_summary(train, held_out, mel: MelConfig) -> dict:
  """NLL of what needs no network on held-out utterances; see baselines.py."""
  def pcms(utterances):
    return (u.read(0, u.samples, mel.sample_rate) for u in utterances)
  predicted = linear_prediction.LinearPrediction(train, mel, min(_TAPS, mel.n_fft // 2))
  return {'uniform': baselines.uniform(),
          'histogram': baselines.ByteHistogram(pcms(train)).nll(pcms(held_out)),
          'flac': baselines.flac(pcms(held_out), mel.sample_rate),
          'linear_prediction': predicted.nll(held_out)}
