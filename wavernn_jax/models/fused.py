"""§4.4 Fused Subscale WaveRNN: S lanes in one hidden state, S samples a step.

    step w:  lane s draws its position w − s·Δ,  Δ = F + 1
    h_w = GRU(h_{w−1}, the samples of the last (S − 1)Δ + 1 steps, nibbles of step w so far)
    P(nibble k of lane s) = softmax(O' relu(O y_{k,s})),  k = 0..3, of 16 values each

The paper has two lanes and F = 2, hence eight softmaxes of 4 bits. There is no
context network: the samples of other lanes are plain inputs. The factorisation is
exact, in the order of the steps: a lane sees those before it up to F positions
ahead, as in models/subscale.py, and also what those after it have drawn.

The H units are divided by nibble and then by lane, Q = H/(4S) units for each
softmax: the first half of the state still predicts the coarse bytes. As c_t
reaches only the fine half of the dense model, nibble k of a sample reaches only
the units of its later nibbles. The lanes of one step do not hear one another.
So a step takes one product with R and four pairs of output products for S
samples, where the dense model takes one and two pairs for each.

A sample is heard as its value and level (`context.hear_value`), an unfinished
one with what is not yet drawn in the middle of its range. So many past steps are
inputs that the last lane hears all samples next to its own; what lies further
back it knows from the state. They enter as the last step's samples and the
differences from step to step: neighbouring samples are so alike that Adam would
long learn nothing but their sum. All lanes have the conditioning of the last
lane's sample, which the first is ahead of by half a frame at most.

Silence surrounds an utterance, as in models/subscale.py: where a lane is before
its beginning or after its end, the state hears zeros.
"""

import functools
import itertools

from flax import nnx
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from wavernn_jax import draw, likelihood, products
from wavernn_jax.config import MelConfig, ModelConfig
from wavernn_jax.models import cell, conditioning, context, skew, subscale, wavernn
from wavernn_jax.models.system import Timing

NIBBLES, VALUES = 4, 16  # of a sample, of a nibble
# Of the value and the level of a sample; the reason is that of `hearing.COARSE_GAIN`. With
# 16 and 1, 1,500 updates of 4 × 480 samples led to 0.18 nats/sample more.
GAINS = 128.0, 2.0


def split_nibbles(pcm_N):
  """Nibbles [..., 4] of int16 samples: of pcm + 32768, the highest first."""
  shifts = 4 * np.arange(NIBBLES)[::-1]
  return (pcm_N[..., None].astype(jnp.int32) + 2**15 >> shifts) & (VALUES - 1)


def join_nibbles(nibbles, known: int = NIBBLES):
  """The samples, before they are int16, whose first `known` nibbles are these.

  The others are in the middle of their range.

  Args:
    nibbles: `known` or more arrays, integers or floats of such values.
    known: how many of them count.
  """
  rest = VALUES**(NIBBLES - known)
  return sum((VALUES**(NIBBLES - 1 - k) * nibbles[k] for k in range(known)), rest // 2 - 2**15)


class _Parameters(wavernn.Recurrence):

  def __init__(self, config: ModelConfig, mel: MelConfig, rngs: nnx.Rngs, taps: int):
    super().__init__(config, mel, rngs)
    units, lanes = config.units, config.lanes
    small = nnx.initializers.normal(0.1)
    # Of the samples of past steps, and of the earlier nibbles of the same sample.
    self.samples = nnx.Param(small(rngs.params(), (taps * lanes * context.INPUTS, 3 * units)))
    self.nibbles = nnx.Param(small(rngs.params(), (context.INPUTS, 3 * 3 * units // 4)))
    self.outputs = nnx.List([nnx.List([
        wavernn.output_layer(units // (NIBBLES * lanes), config.projection, VALUES, rngs)
        for _ in range(NIBBLES)]) for _ in range(lanes)])


class Fused(subscale.Lanes):
  """The model.

  The state of teacher forcing is a dict: `h` BxH before the first step of a block,
  and `pcm`, the last `past` samples. That of sampling:

    index  B      steps w done
    end    B      length of the utterance in samples, or no limit
    h      BxH
    pcm    NxSxB  the samples of the last N = `taps` steps, int16
  """

  @functools.cached_property
  def schedule(self) -> skew.Skew:
    """That of §4 with blocks of one position."""
    return skew.Skew(self.lanes, 1, context.Reach(0, self.config.horizon, ()))

  @property
  def taps(self) -> int:
    """The number of past steps whose samples are inputs."""
    return self.schedule.delay + 1

  @functools.cached_property
  def timing(self) -> Timing:
    delay = self.lanes * self.schedule.delay  # the first lane is so far ahead of the last
    return Timing(  # no lag: the delay is within the frames of a block
        margin=self.rnn.timing.margin, lanes=self.lanes, past=self.lanes * self.taps + delay,
        ahead=delay, delay=delay)

  def init(self, seed: int):
    """Parameters drawn from a seed; `outputs` by lane and nibble."""
    return wavernn.parameters(_Parameters(self.config, self.mel, nnx.Rngs(seed), self.taps))

  def crop_state(self, past_BxN):
    """The state at the start of a crop that `past` samples are known to precede."""
    return {'h': jnp.zeros((len(past_BxN), self.config.units)), 'pcm': past_BxN}

  def sampling_state(self, batch: int):
    """The state of `sample` at the start of an utterance."""
    return {'index': jnp.zeros((batch,), jnp.int32),
            'end': jnp.full((batch,), skew.NO_END),
            'h': jnp.zeros((batch, self.config.units)),
            'pcm': jnp.zeros((self.taps, self.lanes, batch), jnp.int16)}

  def nats(self, params, state, pcm_BxT, mel_BxFxM):
    """Teacher-forced negative log-likelihood of each sample, in audio order.

    Args:
      params: of `init`.
      state: of `initial_state` or a previous call on a multiple of S samples.
      pcm_BxT: int16 samples from a frame boundary on, and `ahead` more.
      mel_BxFxM: `frames(T)` frames around them, T without those ahead.

    Returns:
      {'coarse': BxT, 'fine': BxT} in nats/sample, of the two high and the two low
      nibbles, and the state after the last.
    """
    samples = pcm_BxT.shape[1] - self.timing.ahead
    h_WxBxH, targets, scale = self._run(params, state, pcm_BxT, mel_BxFxM)

    def nats(layer, y_IxBxQ, targets_IxB, prior):
      return likelihood.layer_nats(layer, y_IxBxQ, targets_IxB, self.config.compute_dtype, prior)
    nats_4xSxIxB = jax.vmap(jax.vmap(nats))(
        *self._heads(params, h_WxBxH, targets), self._priors(params, targets, scale))
    coarse, fine = (n.sum(axis=0).swapaxes(0, 1) for n in jnp.split(nats_4xSxIxB, 2))
    before = jnp.concatenate([state['pcm'], pcm_BxT[:, :samples]], axis=1)
    return {byte: subscale.unfold(n, samples).T
            for byte, n in zip(wavernn.BYTES, (coarse, fine), strict=True)}, {
        'h': h_WxBxH[len(coarse) - 1], 'pcm': before[:, -self.timing.past:]}

  def loss(self, params, state, pcm_BxT, mel_BxFxM, burn_in: int = 0, input_noise=None):
    """Means of `nats` over all samples but the first `burn_in`; as `WaveRNN.loss`."""
    samples = pcm_BxT.shape[1] - self.timing.ahead
    h_WxBxH, *coded = self._run(params, state, pcm_BxT, mel_BxFxM, input_noise)
    first = burn_in // self.lanes  # positions of which no lane carries a loss
    time_IxS = subscale.fold(np.arange(samples) - burn_in + 1, self.lanes)[first:]  # padding: 0
    weight_SxI = (time_IxS.T > 0).astype(h_WxBxH.dtype)
    layers, y_4xSxIxBxQ, _ = self._heads(params, h_WxBxH, coded[0])
    targets, scale = jax.tree.map(lambda a: a[first:], coded)
    priors, targets_4xSxIxB = self._priors(params, targets, scale), targets.transpose(3, 1, 0, 2)
    weight_SxIxB = jnp.broadcast_to(
        weight_SxI[..., None], (*weight_SxI.shape, targets_4xSxIxB.shape[-1]))

    def mean(layer, y_IxBxQ, targets_IxB, weight_IxB, prior):
      return likelihood.mean_nats(layer, y_IxBxQ, targets_IxB, weight_IxB,
                                  self.config.compute_dtype, prior)
    means_4xS = jax.vmap(jax.vmap(mean), (0, 0, 0, None, 0))(
        layers, y_4xSxIxBxQ[:, :, first:], targets_4xSxIxB, weight_SxIxB, priors)
    share_S = weight_SxI.sum(axis=1) / weight_SxI.sum()
    coarse, fine = jnp.split((means_4xS * share_S).sum(axis=1), 2)
    return {'coarse': coarse.sum(), 'fine': fine.sum()}

  def _heads(self, params, h_WxBxH, nibbles_IxSxBx4):
    """Output layers of each nibble and lane, units 4xSxIxBxQ and targets 4xSxIxB."""
    units_WxSxBx4xQ = h_WxBxH.reshape(
        *h_WxBxH.shape[:2], NIBBLES, self.lanes, -1).transpose(0, 3, 1, 2, 4)
    units_IxSxBx4xQ = skew.unskewed(units_WxSxBx4xQ, self.schedule.step)
    return (self._layers(params), units_IxSxBx4xQ.transpose(3, 1, 0, 2, 4),
            nibbles_IxSxBx4.transpose(3, 1, 0, 2))

  def _priors(self, params, nibbles_IxSxBx4, scale_IxSxB):
    """Slopes and ramps that are added to the logits, leading axes 4xS; none here."""

  def _layers(self, params):
    """All output layers as one, with leading axes 4xS."""
    stack = functools.partial(jax.tree.map, lambda *leaves: jnp.stack(leaves))
    return stack(*[stack(*[params['outputs'][str(s)][str(k)] for s in range(self.lanes)])
                   for k in range(NIBBLES)])

  def _run(self, params, state, pcm_BxT, mel_BxFxM, input_noise=None):
    """States WxBxH after each step, until the last lane is done, nibbles IxSxBx4, no scale."""
    samples = pcm_BxT.shape[1] - self.timing.ahead
    pcm_BxN = jnp.concatenate([state['pcm'], pcm_BxT], axis=1)
    nibbles_NxSxBx4 = split_nibbles(subscale.fold(pcm_BxN.T, self.lanes))
    x_WxBxH = self._conditioning(params, mel_BxFxM, samples)
    if input_noise is not None:
      around = [(self.timing.past, self.timing.ahead), (0, 0), (0, 0)]
      input_noise = subscale.fold(jnp.pad(input_noise, around), self.lanes)
    h_WxBxH = self.states(params, state['h'], x_WxBxH,
                          nibbles_NxSxBx4.astype(x_WxBxH[0].dtype), input_noise)
    first = self.timing.past // self.lanes
    positions = -(-samples // self.lanes)
    return h_WxBxH, nibbles_NxSxBx4[first:first + positions], None

  def _conditioning(self, params, mel_BxFxM, samples: int):
    """Gate inputs WxBxH of the steps that so many samples of all lanes take."""
    return conditioning.sample_gates(params['conditioning'], mel_BxFxM, samples, self.config,
                                     self.mel, -self.timing.delay, self.lanes)

  def states(self, params, h_BxH, x_WxBxH, nibbles_NxSxBx4, noise_NxSxBx3=None):
    """States WxBxH of the steps.

    Args:
      params: of `init`.
      h_BxH: the state before.
      x_WxBxH: gate inputs of the conditioning.
      nibbles_NxSxBx4: floats, of `past`, the positions and `ahead`.
      noise_NxSxBx3: None, or noise on the scaled bytes: on both where a sample is
        heard by later ones, on the coarse one where it is by its own nibbles.
    """
    taps, steps = self.taps, len(x_WxBxH[0])
    drawn = jnp.moveaxis(skew.skewed(nibbles_NxSxBx4, self.schedule.step), -1, 0)
    whole, unfinished = 0.0, 0.0
    if noise_NxSxBx3 is not None:
      noise = 127.5 * jnp.moveaxis(skew.skewed(noise_NxSxBx3, self.schedule.step), -1, 0)
      whole, unfinished = 256 * noise[0] + noise[1], 256 * noise[2][taps:]
    heard = context.hear_value(join_nibbles(drawn) + whole, GAINS)
    inputs_WxBxE = _past_inputs([heard[taps - 1 - k:][:steps] for k in range(taps)])
    own_4xWxSxBx2 = jnp.stack([jnp.zeros_like(heard[taps:]), *[
        context.hear_value(join_nibbles(drawn[:, taps:], k) + unfinished, GAINS)
        for k in range(1, NIBBLES)]])
    own_WxBx4xSx2 = own_4xWxSxBx2.transpose(1, 3, 0, 2, 4)
    x_WxBxH = tuple(
        add_own(conditioning.add_inputs(x, inputs_WxBxE, w), own_WxBx4xSx2, own)
        for x, w, own in zip(x_WxBxH, jnp.split(params['samples'], 3, axis=1),
                             self._own_weights(params), strict=True))
    return cell.scan(self.rnn.recurrent(params), x_WxBxH, h_BxH.astype(x_WxBxH[0].dtype))

  def _own_weights(self, params):
    """Weights on each gate, 2x4xSxQ, of a sample's earlier nibbles; the first has none."""
    units = self.config.units
    return [jnp.pad(w, ((0, 0), (units // NIBBLES, 0))).reshape(
        context.INPUTS, NIBBLES, self.lanes, -1)
        for w in jnp.split(params['nibbles'], 3, axis=1)]

  def sample(self, params, state, mel_BxFxM, keys_Bx2, temperatures, samples: int,
             unroll: int = 1):
    """Draws the next samples of each utterance, one `lax.scan` over steps of S.

    Args:
      params: of `init`.
      state: of `sampling_state` or a previous call.
      mel_BxFxM: `frames(samples)` frames.
      keys_Bx2: uint32 (seed, utterance): with the sample index they determine
        every draw.
      temperatures: (coarse, fine), each of two nibbles; 0 takes the most probable value.
      samples: how many, T, a multiple of S.
      unroll: steps made by one turn of the loop.

    Returns:
      int16 BxT, the samples of `delay` samples ago, and the next state.

    Raises:
      ValueError: if S does not divide T.
    """
    if samples % self.lanes:
      raise ValueError(f'block of {samples} samples (block_frames · hop): expected a multiple of '
                       f'lanes = {self.lanes}; choose another --config.evaluation.block_frames.')
    steps = samples // self.lanes
    time_WxSxB = self.lanes * state['index'] + self.schedule.times(steps)[..., None]
    x_WxBxH = [x[:steps] for x in self._conditioning(params, mel_BxFxM, samples)]
    R_HxG = self.rnn.recurrent(params)
    step = functools.partial(self._step, params, products.loop_product(R_HxG, len(keys_Bx2)),
                             self._own_weights(params), temperatures)
    carry, pcm_WxSxB = lax.scan(
        step, (state['h'], state['pcm']),
        (x_WxBxH, skew.uniforms(keys_Bx2, time_WxSxB, NIBBLES),
         (time_WxSxB >= 0) & (time_WxSxB < state['end'])), unroll=unroll)
    made = skew.unskewed(jnp.concatenate([state['pcm'], pcm_WxSxB])[1:], self.schedule.step)
    return made.reshape(samples, -1).T, state | {
        'index': state['index'] + steps, 'h': carry[0], 'pcm': carry[1]}

  def _step(self, params, recurrent, own_weights, temperatures, carry, at_w):
    """The body of the scan of `sample`: the nibbles of all lanes, the highest first."""
    (h_BxH, pcm_NxSxB), (x, uniform_4xZ, live_SxB) = carry, at_w
    g_BxG = recurrent(h_BxH)  # once, for all nibbles
    inputs_BxE = _past_inputs(context.hear_value(pcm_NxSxB[::-1].astype(h_BxH.dtype), GAINS))
    x = [jnp.split(conditioning.add_inputs(v, inputs_BxE, w), NIBBLES, axis=1)
         for v, w in zip(x, jnp.split(params['samples'], 3, axis=1), strict=True)]
    silent, nibbles, parts = split_nibbles(np.int16(0)), [], []
    for k in range(NIBBLES):
      x_k = [v[k] for v in x]
      if k:
        own_BxSx2 = context.hear_value(join_nibbles(nibbles, k).astype(h_BxH.dtype).T, GAINS)
        x_k = [add_own(v, own_BxSx2, w[:, k]) for v, w in zip(x_k, own_weights, strict=True)]
      parts.append(cell.part(g_BxG, h_BxH, x_k, k, NIBBLES))
      logits_ZxV = jnp.concatenate([
          likelihood.layer_logits(params['outputs'][str(s)][str(k)], y_BxQ,
                                  self.config.compute_dtype)
          for s, y_BxQ in enumerate(jnp.split(parts[k], self.lanes, axis=1))])
      drawn_Z = draw.categorical(logits_ZxV, uniform_4xZ[k], temperatures[k // 2])
      nibbles.append(jnp.where(live_SxB, drawn_Z.reshape(live_SxB.shape), silent[k]))
    pcm_SxB = join_nibbles(nibbles).astype(jnp.int16)
    pcm_NxSxB = jnp.concatenate([pcm_NxSxB[1:], pcm_SxB[None]])
    return (jnp.concatenate(parts, axis=1), pcm_NxSxB), pcm_SxB


def _past_inputs(heard):
  """Inputs [.., B, E]: the latest step, and the difference of each step to the one before.

  Args:
    heard: what is heard of each past step, [.., S, B, 2], the latest first.
  """
  steps = [heard[0], *[later - earlier for later, earlier in itertools.pairwise(heard)]]
  found = jnp.stack([jnp.moveaxis(x, -2, -3) for x in steps], axis=-3)
  return found.reshape(*found.shape[:-3], -1)


def add_own(x_NxH, heard_NxSxI, weights_IxSxQ):
  """Gate inputs with the contributions of what each softmax's units hear of their own sample."""
  added = sum(heard_NxSxI[..., i, None] * weights_IxSxQ[i] for i in range(context.INPUTS))
  return x_NxH + added.reshape(x_NxH.shape)
