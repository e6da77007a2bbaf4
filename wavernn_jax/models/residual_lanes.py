"""§4 with a prediction from both sides: lanes that code residuals (lane_hearing.py).

As models/subscale.py, with two differences: the residual x_t = s_t − p̂_t is coded in place
of s_t, its logits starting from a Laplace density of the scale that the spectrogram expects;
and no context network stands between the lanes. What a lane hears of the others are
residuals and the excitation that they tell of, y_s:

    x = V relu((U + U_s) y_s + a_s) + b_s        gate inputs, U and U_s of E = P/2 outputs

The excitation means the same to all lanes, so U learns from all of them; U_s is of those inputs
alone that do not. Weights of its own for each gate, S·K·3H of them, code no better and would be
more than all the others. A step needs no block of positions: Δ = F + 1 as in the paper, and
sampling is one scan over steps.

The state of teacher forcing is a dict: `h` SxBxH and `pcm`, the last `past` samples. That
of sampling:

  index     B     steps done
  end       B     length of the utterance in samples, or no limit
  h         SxBxH of each lane at its own position
  pcm, residual, excitation   of `lane_tape.Tape`
"""

import functools

from flax import nnx
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from wavernn_jax import audio, draw, likelihood, products
from wavernn_jax.config import MelConfig, ModelConfig
from wavernn_jax.models import (
  cell,
  conditioning,
  hearing,
  lane_hearing,
  lane_tape,
  skew,
  subscale,
  wavernn,
)
from wavernn_jax.models.system import Timing


class _Parameters(wavernn.Recurrence):

  def __init__(self, config: ModelConfig, mel: MelConfig, rngs: nnx.Rngs,
               heard: lane_hearing.LaneHearing):
    super().__init__(config, mel, rngs)
    lanes, half, features = config.lanes, config.units // 2, max(1, config.projection // 2)
    small, layer = nnx.initializers.normal(0.1), nnx.initializers.normal(features**-0.5)
    self.heard = nnx.Dict({
        'kernel': nnx.Param(layer(rngs.params(), (heard.width, features))),
        'own': nnx.Param(jnp.zeros((lanes, heard.own_width, features))),
        'bias': nnx.Param(jnp.zeros((lanes, features)))})
    self.previous = nnx.Param(small(rngs.params(), (features, 3 * config.units)))
    self.lane = nnx.Param(jnp.zeros((lanes, 3 * config.units)))
    self.coarse = nnx.Param(small(rngs.params(), (3, half)))
    self.prior = nnx.Param(jnp.full((lanes,), hearing.PRIOR))
    self.outputs = nnx.Dict({
        byte: wavernn.output_layer(half, config.projection, likelihood.BYTE_VALUES, rngs,
                                   silent=True) for byte in wavernn.BYTES})


class ResidualLanes(subscale.Lanes):
  """What models of lanes that code residuals share, of a subclass's `hearing`."""

  def frames(self, samples: int) -> int:
    return -(-samples // self.mel.hop) + 2 * self.timing.margin

  def heard(self, pcm_BxN, mel_BxFxM) -> lane_hearing.Heard:
    """Of the positions between those around them; the last may be incomplete."""
    pcm_BxN = jnp.pad(pcm_BxN, ((0, 0), (0, -pcm_BxN.shape[1] % self.lanes)))
    positions = pcm_BxN.shape[1] // self.lanes - sum(self.hearing.around)
    return self.hearing.sequence(pcm_BxN, mel_BxFxM, positions)

  def check_block(self, samples: int) -> None:
    """Raises ValueError if S does not divide the samples of a block."""
    if samples % self.lanes:
      raise ValueError(f'block of {samples} samples (block_frames · hop): expected a multiple of '
                       f'lanes = {self.lanes}; choose another --config.evaluation.block_frames.')


class ResidualSubscale(ResidualLanes):
  """The model."""

  @functools.cached_property
  def hearing(self) -> lane_hearing.LaneHearing:
    """What the lanes hear, and of what their bytes are."""
    return lane_hearing.LaneHearing(self.config, self.mel, excited=True)

  @functools.cached_property
  def timing(self) -> Timing:
    before, after = self.hearing.around
    return Timing(margin=self.hearing.margin, lanes=self.lanes, past=self.lanes * before,
                  ahead=self.lanes * after, delay=self.lanes * self.hearing.layout.delay,
                  lag=skew.lag(self.config, self.mel))

  def init(self, seed: int):
    """Parameters drawn from a seed."""
    return wavernn.parameters(
        _Parameters(self.config, self.mel, nnx.Rngs(seed), self.hearing))

  def crop_state(self, past_BxN):
    """The state at the start of a crop that `past` samples are known to precede."""
    return {'h': jnp.zeros((self.lanes, len(past_BxN), self.config.units)), 'pcm': past_BxN}

  def sampling_state(self, batch: int):
    """The state of `sample` at the start of an utterance."""
    return {'index': jnp.zeros((batch,), jnp.int32),
            'end': jnp.full((batch,), skew.NO_END),
            'h': jnp.zeros((self.lanes, batch, self.config.units)),
            **self.hearing.start(batch)._asdict()}

  def nats(self, params, state, pcm_BxT, mel_BxFxM):
    """Teacher-forced negative log-likelihood of each sample; as `Subscale.nats`."""
    samples = pcm_BxT.shape[1] - self.timing.ahead
    h_IxSxBxH, targets, scale = self._run(params, state, pcm_BxT, mel_BxFxM)
    nats = self.rnn.byte_nats(params, h_IxSxBxH, targets,
                              priors=self._priors(params, scale, targets['coarse']))
    before = jnp.concatenate([state['pcm'], pcm_BxT[:, :samples]], axis=1)
    return {byte: subscale.unfold(n, samples).T for byte, n in nats.items()}, {
        'h': h_IxSxBxH[-1], 'pcm': before[:, -self.timing.past:]}

  def loss(self, params, state, pcm_BxT, mel_BxFxM, burn_in: int = 0, input_noise=None):
    """Means of `nats` over all samples but the first `burn_in`; as `WaveRNN.loss`."""
    del input_noise  # rules.py allows none
    samples = pcm_BxT.shape[1] - self.timing.ahead
    found = self._run(params, state, pcm_BxT, mel_BxFxM)
    first = burn_in // self.lanes  # positions of which no lane carries a loss
    h_IxSxBxH, targets, scale = jax.tree.map(lambda a: a[first:], found)
    time = subscale.fold(jnp.arange(samples) - burn_in + 1, self.lanes)[first:]  # padding: 0
    weight = jnp.broadcast_to((time > 0)[..., None], scale.shape).astype(h_IxSxBxH.dtype)
    return self.rnn.mean_nats(params, h_IxSxBxH, targets, weight,
                              priors=self._priors(params, scale, targets['coarse']))

  def _run(self, params, state, pcm_BxT, mel_BxFxM):
    """States IxSxBxH after each sample, the residuals' bytes and their scales IxSxB."""
    samples = pcm_BxT.shape[1] - self.timing.ahead
    heard = self.heard(jnp.concatenate([state['pcm'], pcm_BxT], axis=1), mel_BxFxM)
    x_TxBxH = conditioning.sample_gates(
        params['conditioning'], self.hearing.stack_frames(mel_BxFxM), samples, self.config,
        self.mel)
    targets = dict(zip(wavernn.BYTES, audio.split_bytes(heard.residual), strict=True))
    h_IxSxBxH = self.states(params, state['h'], [subscale.fold(x, self.lanes) for x in x_TxBxH],
                            heard.inputs, self._current(targets['coarse'], heard.scale))
    return h_IxSxBxH, targets, heard.scale

  def states(self, params, h_SxBxH, x_IxSxBxH, inputs_IxSxBxK, current_IxSxBx1):
    """States of all lanes from the gate inputs of the conditioning and what is heard."""
    x_IxSxBxH = self._add_heard(self._heard_weights(params), x_IxSxBxH, inputs_IxSxBxK)
    x_IxSxBxH = tuple(
        conditioning.add_inputs(x, current_IxSxBx1.astype(x.dtype), w[None])
        for x, w in zip(x_IxSxBxH, self._coarse_weights(params), strict=True))
    return cell.scan(self.rnn.recurrent(params), x_IxSxBxH, h_SxBxH.astype(x_IxSxBxH[0].dtype))

  def _current(self, coarse, scale):
    return lane_hearing.coarse_over_scale(coarse, scale)[..., None]

  def _heard_weights(self, params):
    """U + U_s [S, K, E], 0 for what a lane does not know, a_s; of each gate V [E, H] and b_s."""
    heard = params['heard']
    own_SxKxE = jnp.pad(heard['own'], ((0, 0), (0, len(heard['kernel']) - heard['own'].shape[1]),
                                       (0, 0)))
    kernel_SxKxE = (heard['kernel'] + own_SxKxE) * self.hearing.mask()[..., None]
    gates = [jnp.split(params[name], 3, axis=-1) for name in ('previous', 'lane')]
    return (kernel_SxKxE, heard['bias'][:, None]), tuple(zip(*gates, strict=True))

  def _add_heard(self, heard_weights, x, inputs_NxSxBxK):
    """Gate inputs [.., S, B, H] with what each lane hears."""
    (kernel_SxKxE, bias_Sx1xE), gates = heard_weights
    inputs_NxSxBxK = inputs_NxSxBxK.astype(x[0].dtype)
    features = jax.nn.relu(
        jnp.einsum('...sbk,ske->...sbe', inputs_NxSxBxK, kernel_SxKxE) + bias_Sx1xE)
    return tuple(v + features @ w + b[:, None] for v, (w, b) in zip(x, gates, strict=True))

  def _coarse_weights(self, params):
    """Weights 3xH of the coarse byte on each gate; those on its own half are zero."""
    return jnp.pad(params['coarse'], ((0, 0), (self.config.units // 2, 0)))

  def _priors(self, params, scale_NxSxB, coarse_NxSxB):
    return hearing.priors(params['prior'][:, None], scale_NxSxB, coarse_NxSxB)

  def sample(self, params, state, mel_BxFxM, keys_Bx2, temperatures, samples: int,
             unroll: int = 1):
    """Draws the next samples of each utterance, all lanes in one scan over steps.

    Args as for `Subscale.sample`.

    Returns:
      int16 BxT, the samples of `delay` samples ago, and the next state.

    Raises:
      ValueError: if S does not divide T.
    """
    self.check_block(samples)
    steps, schedule = samples // self.lanes, skew.schedule(self.config)
    time_WxS = schedule.times(steps)
    time_WxSxB = self.lanes * state['index'] + time_WxS[..., None]
    at_steps = (
        skew.lane_gates(params['conditioning'], self.hearing.stack_frames(mel_BxFxM), time_WxS,
                        self.config, self.mel),
        skew.uniforms(keys_Bx2, time_WxSxB), (time_WxSxB >= 0) & (time_WxSxB < state['end']),
        self.hearing.rows(time_WxS // self.lanes, self.timing.lag))
    step = functools.partial(
        self._step, params, products.loop_product(self.rnn.recurrent(params), time_WxSxB[0].size),
        self._heard_weights(params), self.hearing.filters(mel_BxFxM), temperatures)
    tape = lane_tape.Tape(*(state[name] for name in lane_tape.Tape._fields))
    (h_SxBxH, tape), pcm_WxBxS = lax.scan(step, (state['h'], tape), at_steps, unroll=unroll)
    return pcm_WxBxS.swapaxes(0, 1).reshape(-1, samples), state | {
        'index': state['index'] + steps, 'h': h_SxBxH, **tape._asdict()}

  def _step(self, params, recurrent, heard_weights, filters, temperatures, carry, at_w):
    """The body of the scan of `sample`: a sample of each lane."""
    (h_SxBxH, tape), (x, uniform_2xZ, live_SxB, row_S) = carry, at_w
    shape = live_SxB.shape
    at = jax.tree.map(lambda f: f[row_S], filters)
    inputs_SxBxK, predicted_SxB = self.hearing.before(tape, at)
    x = self._add_heard(heard_weights, x, inputs_SxBxK)
    h_ZxH = h_SxBxH.reshape(-1, self.config.units)
    g_ZxG = recurrent(h_ZxH)  # once, for both halves

    def half(i, x, priors):
      """The coarse (0) or fine (1) units of the next states, and the byte drawn from them."""
      own = [jnp.split(v, 2, axis=-1)[i].reshape(len(h_ZxH), -1) for v in x]
      y_ZxQ = cell.part(g_ZxG, h_ZxH, own, i, 2)
      slope_SxB, ramp = priors[wavernn.BYTES[i]]
      logits = likelihood.layer_logits(params['outputs'][wavernn.BYTES[i]], y_ZxQ,
                                       self.config.compute_dtype, (slope_SxB.reshape(-1), ramp))
      return y_ZxQ, draw.categorical(logits, uniform_2xZ[i], temperatures[i]).reshape(shape)

    y_coarse, coarse = half(0, x, self._priors(params, at.linear.scale, np.zeros(shape, int)))
    current = self._current(coarse, at.linear.scale)
    x = [v + current * w for v, w in zip(x, self._coarse_weights(params), strict=True)]
    y_fine, fine = half(1, x, self._priors(params, at.linear.scale, coarse))
    h_new = jnp.concatenate([y_coarse, y_fine], axis=1).reshape(h_SxBxH.shape)
    tape = self.hearing.after(tape, audio.join_bytes(coarse, fine), live_SxB, predicted_SxB, at)
    return (jnp.where(live_SxB[..., None], h_new, h_SxBxH), tape), self.hearing.layout.drawn(tape)
