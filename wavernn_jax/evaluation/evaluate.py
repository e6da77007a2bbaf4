"""Held-out likelihood over whole utterances with carried state, for any engine."""

import numpy as np

from wavernn_jax.config import EvaluationConfig, MelConfig
from wavernn_jax.data import corpus
from wavernn_jax.evaluation import baselines, bootstrap, linear_prediction
from wavernn_jax.sampling import stream
from wavernn_jax.sampling.engine import Engine

_TAPS = 192  # of linear prediction: 256 gain 0.004 nats/sample on 24 kHz speech, 16 lose 0.19


def utterance_nats(engine: Engine, utterances, batch: int, progress=lambda samples: None):
  """Sums of nats over each utterance: {'coarse': U, 'fine': U}, and samples U."""
  sums, samples = lane_nats(engine, utterances, batch, progress)
  return {byte: s.sum(axis=1) for byte, s in sums.items()}, samples


def lane_nats(engine: Engine, utterances, batch: int, progress=lambda samples: None):
  """`utterance_nats`, separately for the S lanes of a model: {'coarse': UxS, 'fine': UxS}.

  Utterances are rows of a batch that runs block by block with carried state. The padding
  of a row does not count.

  Args:
    engine: with the weights.
    utterances: of corpus.py.
    batch: largest number of utterances at a time.
    progress: called after each block with the number of samples scored.
  """
  batch = min(batch, engine.at_once)
  order = np.argsort([-u.samples for u in utterances], kind='stable')
  sums = {byte: np.zeros((len(utterances), engine.model.timing.lanes))
          for byte in ('coarse', 'fine')}
  for first in range(0, len(order), batch):
    rows = order[first:first + batch]
    for byte, nats in _batch_nats(
        engine, [utterances[i] for i in rows], batch, progress).items():
      sums[byte][rows] = nats[:len(rows)]
  return sums, np.array([u.samples for u in utterances])


def _batch_nats(engine: Engine, utterances, batch: int, progress):
  mel, timing, frames = engine.model.mel, engine.model.timing, engine.block_frames
  block, window = frames * mel.hop, frames + 2 * timing.margin
  blocks = -(-max(u.samples for u in utterances) // block)
  lengths = np.zeros(batch, int)
  pcm = np.zeros((batch, blocks * block + timing.ahead), np.int16)
  for row, u in enumerate(utterances):
    lengths[row] = u.samples
    pcm[row, :u.samples] = u.read(0, u.samples, mel.sample_rate)
  mels = [corpus.utterance_mel(u, mel) for u in utterances]
  mels += [mels[0][:0]] * (batch - len(mels))
  mels = stream.padded_mels(mels, blocks * frames, (timing.margin,) * 2, mel)
  state, sums = engine.scoring_state(batch), {'coarse': 0.0, 'fine': 0.0}
  for b in range(blocks):
    inside = np.clip(lengths - b * block, 0, block)
    nats, state = engine.score(state, pcm[:, b * block:(b + 1) * block + timing.ahead],
                               mels[:, b * frames:b * frames + window])
    mask = np.arange(block) < inside[:, None]
    # Sums in float64: an utterance has up to 10⁶ samples.
    sums = {byte: sums[byte] + (np.asarray(n, np.float64) * mask).reshape(
        batch, -1, timing.lanes).sum(axis=1) for byte, n in nats.items()}
    progress(int(inside.sum()))
  return sums


def summary(sums, samples_U, config: EvaluationConfig, seed: int = 0) -> dict:
  """Nats/sample over all utterances, with 95% bootstrap intervals over utterances.

  Args:
    sums, samples_U: of `utterance_nats`.
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
    sums, samples_U: of `lane_nats`.
  """
  total_S = sum(sums.values()).sum(axis=0)
  lanes = len(total_S)
  counts_S = -(-(samples_U[:, None] - np.arange(lanes)) // lanes).sum(axis=0)
  return {'nll_lanes': (total_S / counts_S).tolist()} if lanes > 1 else {}


def baseline_summary(train, held_out, mel: MelConfig) -> dict:
  """NLL of the baselines on held-out utterances; see baselines.py."""
  def pcms(utterances):
    return (u.read(0, u.samples, mel.sample_rate) for u in utterances)
  predicted = linear_prediction.LinearPrediction(train, mel, min(_TAPS, mel.n_fft // 2))
  return {'uniform': baselines.uniform(),
          'histogram': baselines.ByteHistogram(pcms(train)).nll(pcms(held_out)),
          'flac': baselines.flac(pcms(held_out), mel.sample_rate),
          'linear_prediction': predicted.nll(held_out)}
