"""§4.4 with a prediction from both sides: fused lanes that code residuals.

As models/fused.py, with the residual x = s − p̂ of each lane coded in place of the sample
(lane_hearing.py), nibble by nibble. All lanes share the state, so it hears what each lane
would hear at its own position; an unfinished residual is heard over its σ. The Laplace
density that the spectrogram expects is a ramp of the top nibble,

    4096 (8 − n) for n ≥ 8,  4096 (n − 7) − 1 below

and given that a ramp of each lower one: −16^(3 − k) n for x ≥ 0, and + for x < 0.

The state of teacher forcing is a dict: `h` BxH before the first step of a block, and
`pcm`, the last `past` samples. That of sampling:

  index  B      steps done
  end    B      length of the utterance in samples, or no limit
  h      BxH
  pcm, residual, excitation  of `lane_tape.Tape`
"""

import functools

from flax import nnx
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from wavernn_jax import draw, likelihood, products
from wavernn_jax.config import MelConfig, ModelConfig
from wavernn_jax.models import (
  cell,
  context,
  fused,
  hearing,
  lane_hearing,
  lane_tape,
  prediction,
  residual_lanes,
  skew,
  wavernn,
)
from wavernn_jax.models.fused import NIBBLES, VALUES
from wavernn_jax.models.system import Timing

_V = np.arange(VALUES, dtype=np.float32)
TOP_RAMP = np.where(_V >= 8, 4096 * (8 - _V), 4096 * (_V - 7) - 1)
RAMPS_4xV = np.stack([TOP_RAMP, *[VALUES**(3 - k) * _V for k in range(1, NIBBLES)]])


class _Parameters(wavernn.Recurrence):

  def __init__(self, config: ModelConfig, mel: MelConfig, rngs: nnx.Rngs, inputs: int):
    super().__init__(config, mel, rngs)
    units, lanes = config.units, config.lanes
    small = nnx.initializers.normal(0.1)
    self.previous = nnx.Param(small(rngs.params(), (lanes * inputs, 3 * units)))
    # Of the earlier nibbles of the same residual.
    self.nibbles = nnx.Param(small(rngs.params(), (context.INPUTS, 3 * 3 * units // 4)))
    self.prior = nnx.Param(jnp.full((lanes,), hearing.PRIOR))
    self.outputs = nnx.List([nnx.List([
        wavernn.output_layer(units // (NIBBLES * lanes), config.projection, VALUES, rngs,
                             silent=True)
        for _ in range(NIBBLES)]) for _ in range(lanes)])


class ResidualFused(residual_lanes.ResidualLanes, fused.Fused):
  """The model."""

  @functools.cached_property
  def hearing(self) -> lane_hearing.LaneHearing:
    """What the lanes hear, also while some are ahead of a block or behind it."""
    return lane_hearing.LaneHearing(self.config, self.mel, self.schedule.delay)

  @functools.cached_property
  def timing(self) -> Timing:
    before, after = self.hearing.around
    return Timing(margin=self.hearing.margin, lanes=self.lanes, past=self.lanes * before,
                  ahead=self.lanes * after, delay=self.lanes * self.schedule.delay)

  def init(self, seed: int):
    """Parameters drawn from a seed; `outputs` by lane and nibble."""
    return wavernn.parameters(
        _Parameters(self.config, self.mel, nnx.Rngs(seed), self.hearing.width))

  def sampling_state(self, batch: int):
    """The state of `sample` at the start of an utterance."""
    return {'index': jnp.zeros((batch,), jnp.int32),
            'end': jnp.full((batch,), skew.NO_END),
            'h': jnp.zeros((batch, self.config.units)), **self.hearing.start(batch)._asdict()}

  def _run(self, params, state, pcm_BxT, mel_BxFxM, input_noise=None):
    """States WxBxH after each step, nibbles IxSxBx4 and scales IxSxB of the residuals."""
    del input_noise  # rules.py allows none
    samples = pcm_BxT.shape[1] - self.timing.ahead
    heard = self.heard(jnp.concatenate([state['pcm'], pcm_BxT], axis=1), mel_BxFxM)
    nibbles_NxSxBx4 = fused.split_nibbles(heard.residual)
    x_WxBxH = self._conditioning(params, self.hearing.stack_frames(mel_BxFxM), samples)
    h_WxBxH = self.states(params, state['h'], x_WxBxH, heard.inputs, nibbles_NxSxBx4, heard.scale)
    own = slice(self.schedule.delay, len(nibbles_NxSxBx4) - self.schedule.delay)
    return h_WxBxH, nibbles_NxSxBx4[own], heard.scale[own]

  def states(self, params, h_BxH, x_WxBxH, inputs_NxSxBxK, nibbles_NxSxBx4, scale_NxSxB):
    """States WxBxH of the steps from what is heard at the block's positions and beside them."""
    inputs, nibbles, scale = (skew.skewed(a, self.schedule.step) for a in (
        inputs_NxSxBxK, nibbles_NxSxBx4, scale_NxSxB))
    nibbles_4xWxSxB = jnp.moveaxis(nibbles, -1, 0)
    own_4xWxSxBx2 = jnp.stack([jnp.zeros((*scale.shape, context.INPUTS), scale.dtype), *[
        _unfinished(nibbles_4xWxSxB, k, scale) for k in range(1, NIBBLES)]])
    own_WxBx4xSx2 = own_4xWxSxBx2.transpose(1, 3, 0, 2, 4)
    x_WxBxH = self._add_heard(self._heard_weights(params), x_WxBxH, inputs)
    x_WxBxH = tuple(fused.add_own(x, own_WxBx4xSx2.astype(x.dtype), w) for x, w in zip(
        x_WxBxH, self._own_weights(params), strict=True))
    return cell.scan(self.rnn.recurrent(params), x_WxBxH, h_BxH.astype(x_WxBxH[0].dtype))

  def _heard_weights(self, params):
    """[S·K, H] of each gate; of what a lane does not know, zero."""
    return jnp.split(params['previous'] * self.hearing.mask().reshape(-1, 1), 3, axis=1)

  def _add_heard(self, heard_weights, x, inputs_NxSxBxK):
    """Gate inputs [.., B, H] with what all lanes hear."""
    inputs_NxBxE = jnp.moveaxis(inputs_NxSxBxK, -3, -2)
    inputs_NxBxE = inputs_NxBxE.reshape(*inputs_NxBxE.shape[:-2], -1)
    return tuple(v + inputs_NxBxE.astype(v.dtype) @ w
                 for v, w in zip(x, heard_weights, strict=True))

  def _priors(self, params, nibbles_IxSxBx4, scale_IxSxB):
    """Slopes 4xSxIxB and ramps 4xSxV."""
    slopes = _slopes(params['prior'][:, None], scale_IxSxB, nibbles_IxSxBx4[..., 0] >= VALUES // 2)
    ramps_4xSxV = np.broadcast_to(RAMPS_4xV[:, None], (NIBBLES, self.lanes, VALUES))
    return jnp.stack(slopes).swapaxes(1, 2), jnp.asarray(ramps_4xSxV)

  def sample(self, params, state, mel_BxFxM, keys_Bx2, temperatures, samples: int,
             unroll: int = 1):
    """Draws the next samples of each utterance, one `lax.scan` over steps of S.

    As `Fused.sample`.
    """
    self.check_block(samples)
    steps = samples // self.lanes
    time_WxS = self.schedule.times(steps)
    time_WxSxB = self.lanes * state['index'] + time_WxS[..., None]
    x_WxBxH = self._conditioning(params, self.hearing.stack_frames(mel_BxFxM), samples)
    step = functools.partial(
        self._step, params, products.loop_product(self.rnn.recurrent(params), len(keys_Bx2)),
        self._heard_weights(params), self.hearing.filters(mel_BxFxM), temperatures)
    tape = lane_tape.Tape(*(state[name] for name in lane_tape.Tape._fields))
    (h_BxH, tape), pcm_WxBxS = lax.scan(
        step, (state['h'], tape),
        ([x[:steps] for x in x_WxBxH], skew.uniforms(keys_Bx2, time_WxSxB, NIBBLES),
         (time_WxSxB >= 0) & (time_WxSxB < state['end']),
         self.hearing.rows(time_WxS // self.lanes)), unroll=unroll)
    return pcm_WxBxS.swapaxes(0, 1).reshape(-1, samples), state | {
        'index': state['index'] + steps, 'h': h_BxH, **tape._asdict()}

  def _step(self, params, recurrent, heard_weights, filters, temperatures, carry, at_w):
    """The body of the scan of `sample`: the nibbles of all lanes, the highest first."""
    (h_BxH, tape), (x, uniform_4xZ, live_SxB, row_S) = carry, at_w
    at = jax.tree.map(lambda f: f[row_S], filters)
    inputs_SxBxK, predicted_SxB = self.hearing.before(tape, at)
    x = [jnp.split(v, NIBBLES, axis=1) for v in self._add_heard(heard_weights, x, inputs_SxBxK)]
    g_BxG = recurrent(h_BxH)  # once, for all nibbles
    # What leaves a sample silent.
    silent_4xSxB = jnp.moveaxis(fused.split_nibbles(
        prediction.encode(jnp.zeros_like(predicted_SxB), predicted_SxB)), -1, 0)
    nibbles, parts = [], []
    for k in range(NIBBLES):
      x_k = [v[k] for v in x]
      if k:
        own_BxSx2 = _unfinished(nibbles, k, at.linear.scale).swapaxes(0, 1)
        x_k = [fused.add_own(v, own_BxSx2, w[:, k])
               for v, w in zip(x_k, self._own_weights(params), strict=True)]
      parts.append(cell.part(g_BxG, h_BxH, x_k, k, NIBBLES))
      slope_SxB = _slopes(params['prior'][:, None], at.linear.scale,
                          nibbles[0] >= VALUES // 2 if k else None)[min(k, 1)]
      logits_ZxV = jnp.concatenate([
          likelihood.layer_logits(params['outputs'][str(s)][str(k)], y_BxQ,
                                  self.config.compute_dtype, (slope_SxB[s], RAMPS_4xV[k]))
          for s, y_BxQ in enumerate(jnp.split(parts[k], self.lanes, axis=1))])
      drawn_Z = draw.categorical(logits_ZxV, uniform_4xZ[k], temperatures[k // 2])
      nibbles.append(jnp.where(live_SxB, drawn_Z.reshape(live_SxB.shape), silent_4xSxB[k]))
    residual_SxB = fused.join_nibbles(nibbles).astype(jnp.int16)
    tape = self.hearing.after(tape, residual_SxB, live_SxB, predicted_SxB, at)
    return (jnp.concatenate(parts, axis=1), tape), self.hearing.layout.drawn(tape)


def _slopes(log_ratio, scale, positive):
  """The slope of each nibble's ramp: of the top one, and by its sign of each lower one."""
  slope = jnp.exp(-log_ratio) / scale
  lower = slope if positive is None else jnp.where(positive, -slope, slope)
  return [slope, *[lower] * (NIBBLES - 1)]


def _unfinished(nibbles, known: int, scale):
  """[..., 2]: what is known of residuals by their first nibbles, over σ, and its size."""
  over = hearing.over_scale(fused.join_nibbles(nibbles, known), scale)
  return jnp.stack([over, jnp.abs(over)], axis=-1)
