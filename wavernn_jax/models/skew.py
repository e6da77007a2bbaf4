"""§4, batched sampling: all lanes in one scan, each F + L positions behind the one before.

    step w:  lane s draws position w − s·Δ        Δ = F + L

The context network runs over a block of L positions of every lane at once, so a
lane may start a block when the lane before it is F + L positions ahead (the paper's
F + 1 is L = 1). An utterance's samples come out in order, S·L at a time, when the
last lane has drawn them: (S − 1)·Δ·S samples after the first lane. A lane draws
nothing before its position 0, and what lies after the end of the utterance is
silence, as in the likelihood.

The state is a dict:

  index    B                      steps done, w
  end      B                      length of the utterance in samples; NO_END if unknown
  h        SxBxH                  of each lane at its own position
  sample   SxB                    the last sample of each lane
  pcm      [(S − 1)Δ + near]xSxB  positions up to lane 0's at step w; 0 where none is drawn yet
  caches   those of context.block_features
"""

import dataclasses
import math

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from wavernn_jax import audio, draw
from wavernn_jax.config import MelConfig, ModelConfig
from wavernn_jax.models import conditioning, context, wavernn

NO_END = np.iinfo(np.int32).max


@dataclasses.dataclass(frozen=True)
class Skew:
  """The schedule of a configuration, in positions."""

  lanes: int
  block: int  # L
  reach: context.Reach

  @property
  def step(self) -> int:
    """Δ: positions by which a lane is behind the one before."""
    return self.reach.ahead + self.block

  @property
  def delay(self) -> int:
    """Positions by which the last lane is behind the first."""
    return (self.lanes - 1) * self.step

  def times(self, positions: int) -> np.ndarray:
    """Sample index IxS of every lane's next positions, relative to lane 0's first."""
    lane = np.arange(self.lanes)
    return self.lanes * (np.arange(positions)[:, None] - self.step * lane) + lane

  def read_rows(self) -> np.ndarray:
    """Rows of `pcm`, SxN, that the first layer of the context needs for a block."""
    window = self.reach.near + self.reach.near_ahead + self.block
    first = self.delay - self.step * np.arange(self.lanes)
    rows = first[:, None] + self.reach.ahead - self.reach.near_ahead + np.arange(window)
    return np.minimum(rows, self.delay + self.reach.near - 1)  # lane 0 alone: it sees none of it

  def write_rows(self) -> np.ndarray:
    """Rows of `pcm` and L more, LxS, that a block's samples go to."""
    first = self.delay - self.step * np.arange(self.lanes)
    return self.reach.near + first + np.arange(self.block)[:, None]


def skewed(x_NxS, step: int):
  """Positions -> steps: row w has lane s at position w − s·step.

  w counts from the first step at which all lanes have a position.
  """
  lanes = x_NxS.shape[1]
  steps = len(x_NxS) - (lanes - 1) * step
  return jnp.stack([x_NxS[(lanes - 1 - s) * step:][:steps, s] for s in range(lanes)], axis=1)


def unskewed(x_WxS, step: int):
  """Steps -> positions: the inverse of `skewed`, for the positions that all lanes have."""
  return skewed(x_WxS[:, ::-1], step)[:, ::-1]


def schedule(config: ModelConfig) -> Skew:
  if config.prediction == 'spectral':  # no network, no blocks
    return Skew(config.lanes, 1, context.Reach(0, config.horizon, ()))
  return Skew(config.lanes, config.context_block, context.reach(config))


def initial_state(config: ModelConfig, batch: int):
  """The state at the start of an utterance."""
  skew, rows = schedule(config), (config.lanes, batch)
  caches = [] if config.lanes == 1 else [
      jnp.zeros((past + ahead, *rows, config.context_channels))
      for past, ahead in skew.reach.dilations]
  return {'index': jnp.zeros((batch,), jnp.int32),
          'end': jnp.full((batch,), NO_END),
          'h': jnp.zeros((*rows, config.units)),
          'sample': jnp.zeros(rows, jnp.int16),
          'pcm': jnp.zeros((skew.delay + skew.reach.near, *rows), jnp.int16),
          'caches': caches}


def sample(rnn: wavernn.WaveRNN, params, state, mel_BxFxM, keys_Bx2, temperatures,
           samples: int, unroll: int, draws):
  """Draws the next samples of each utterance, those of `delay` positions ago; the next state.

  Args:
    rnn: the plain model, whose network each lane is.
    params, state, keys_Bx2, temperatures, samples, unroll: as for `WaveRNN.sample`.
    mel_BxFxM: likewise, with the frames of that delay before the others.
    draws: `WaveRNN.draws`, or a function that does the same.
  """
  skew = schedule(rnn.config)
  positions = samples // skew.lanes
  time_IxSxB = (skew.lanes * state['index'] + skew.times(positions)[..., None])
  live_IxSxB = (time_IxSxB >= 0) & (time_IxSxB < state['end'])
  uniform_Ix2xZ = uniforms(keys_Bx2, time_IxSxB)
  x_IxZxH = [_rows(x) for x in lane_gates(
      params['conditioning'], mel_BxFxM, skew.times(positions), rnn.config, rnn.mel)]
  state = with_silence(params, state, rnn.config)

  def block(state, at):
    x_LxZxH, uniform_Lx2xZ, live_LxZ = at
    seen, caches = None, state['caches']
    if skew.lanes > 1:
      seen, nearest, caches = context_block(params['context'], state, skew, rnn.config)
      x_LxZxH = context.add_gate_inputs(
          params['context'], x_LxZxH, _rows(seen), _rows(nearest), rnn.config)
      seen = _rows(seen)
    carry = (state['h'].reshape(-1, rnn.config.units),
             *audio.split_bytes(state['sample'].reshape(-1)))
    (h, _, _), pcm_LxZ = draws(params, carry, tuple(x_LxZxH), uniform_Lx2xZ, temperatures,
                               seen, live_LxZ, unroll)
    pcm_LxSxB = pcm_LxZ.reshape(skew.block, *state['sample'].shape)
    pcm = jnp.pad(state['pcm'], ((0, skew.block), (0, 0), (0, 0)))
    pcm = pcm.at[skew.write_rows(), np.arange(skew.lanes)].set(pcm_LxSxB)
    made = pcm[skew.reach.near:skew.reach.near + skew.block]
    return state | {'index': state['index'] + skew.block, 'h': h.reshape(state['h'].shape),
                    'sample': pcm_LxSxB[-1], 'pcm': pcm[skew.block:], 'caches': caches}, made

  blocks = jax.tree.map(lambda a: a.reshape(-1, skew.block, *a.shape[1:]),
                        (x_IxZxH, uniform_Ix2xZ, _rows(live_IxSxB)))
  state, pcm_NxLxSxB = lax.scan(block, state, blocks)
  return pcm_NxLxSxB.reshape(samples, -1).T, state


def _rows(x_IxSxBxN):
  """Lanes and utterances as one batch axis."""
  return x_IxSxBxN.reshape(len(x_IxSxBxN), -1, *x_IxSxBxN.shape[3:])


def uniforms(keys_Bx2, time_IxSxB, draws: int = 2):
  """The numbers of `draw.uniforms` at the samples of each lane, I x draws x Z."""
  positions, lanes, batch = time_IxSxB.shape
  found = draw.uniforms_at(keys_Bx2, time_IxSxB.reshape(-1, batch).astype(jnp.uint32), draws)
  found_IxSxDxB = found.reshape(positions, lanes, draws, batch)
  return found_IxSxDxB.swapaxes(1, 2).reshape(positions, draws, lanes * batch)


def context_block(params, state, skew: Skew, config: ModelConfig):
  """Context LxSxBxC and nearest bytes LxSxBx2K of the lanes' next block, and the next caches."""
  def scaled(pcm):
    return audio.scale_byte(jnp.stack(audio.split_bytes(pcm), axis=-1))
  heard_NxSxBxSx2 = scaled(state['pcm'][skew.read_rows()].transpose(1, 0, 3, 2))
  seen, caches = context.block_features(params, state['caches'], heard_NxSxBxSx2, config)
  rows_LxS, lane = skew.write_rows(), np.arange(skew.lanes)
  before = [scaled(state['pcm'][rows_LxS[:, k:], lane[:-k]])
            for k in range(1, skew.lanes)]
  return seen, context.nearest_bytes(before), caches


def with_silence(params, state, config: ModelConfig):
  """The state; where an utterance begins, with what silence leaves in the caches."""
  if config.lanes == 1:
    return state
  silent = audio.scale_byte(jnp.stack(audio.split_bytes(jnp.zeros((), jnp.int16))))
  begins = (state['index'] == 0)[:, None]
  caches = [jnp.where(begins, still, cache) for still, cache in zip(
      context.silence(params['context'], silent, config), state['caches'], strict=True)]
  return state | {'caches': caches}


def lag(config: ModelConfig, mel: MelConfig) -> int:
  """Frames before those of a block that the lanes behind still need."""
  return math.ceil(config.lanes * schedule(config).delay / mel.hop)


def lane_gates(params, mel_BxFxM, times_IxS, config: ModelConfig, mel: MelConfig):
  """Gate inputs of lanes at different times, three arrays IxSxBxH."""
  gates_FxBxG = conditioning.frame_gates(params, mel_BxFxM, config, mel)
  position_IxS = conditioning.frame_position(times_IxS, mel) + lag(config, mel)
  left_IxS = np.floor(position_IxS).astype(int)
  first_S, width = left_IxS[0], (left_IxS[-1] - left_IxS[0]).max() + 2
  weights_SxIxW = np.maximum(0, 1 - np.abs(
      (position_IxS - first_S).T[..., None] - np.arange(width)))
  frames_SxW = np.minimum(first_S[:, None] + np.arange(width), len(gates_FxBxG) - 1)
  return [jnp.einsum('siw,swbh->isbh', jnp.asarray(weights_SxIxW, g.dtype), g[frames_SxW])
          for g in jnp.split(gates_FxBxG, 3, axis=-1)]
