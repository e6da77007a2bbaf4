"""§4 Subscale WaveRNN: S samples a step, one network shared by all lanes.

    lane s, position i:  x[S·i + s]
    P(x) = Π_s Π_i P(x[S·i + s] | lane s before i, lanes z < s up to i + F)

The factorisation of the utterance is exact, in another order. The cell, the
conditioning, the dual softmax and the likelihood are those of models/wavernn.py,
with the lanes as a further batch axis: a lane's previous sample is its own, S
samples before. What it sees of other lanes (models/context.py) is added to its gate
inputs and is a further input of its coarse output layer. With S = 1 there is no
context, and the model is the plain one.

Silence surrounds an utterance: samples before and after it are zero.
"""

import dataclasses
import functools

from flax import nnx
import jax.numpy as jnp

from wavernn_jax import audio
from wavernn_jax.config import MelConfig, ModelConfig
from wavernn_jax.models import cell, conditioning, context, skew, wavernn
from wavernn_jax.models.system import Timing


def fold(x_TxN, lanes: int):
  """[T, ...] -> [I, S, ...]: lane s holds x[S·i + s]. T is padded to S·I with zeros."""
  padding = [(0, -len(x_TxN) % lanes)] + [(0, 0)] * (x_TxN.ndim - 1)
  return jnp.pad(x_TxN, padding).reshape(-1, lanes, *x_TxN.shape[1:])


def unfold(x_IxSxN, samples: int):
  """Inverse of `fold`: the first `samples` of [S·I, ...]."""
  return x_IxSxN.reshape(-1, *x_IxSxN.shape[2:])[:samples]


class _Parameters(wavernn.Parameters):

  def __init__(self, config: ModelConfig, mel: MelConfig, rngs: nnx.Rngs):
    alone = config.lanes == 1
    super().__init__(config, mel, rngs, 0 if alone else config.context_channels)
    if not alone:
      self.context = context.Context(config, rngs)


@dataclasses.dataclass(frozen=True, eq=False)
class Lanes:
  """The part of a System (system.py) that all models of several lanes share."""

  config: ModelConfig
  mel: MelConfig

  @functools.cached_property
  def rnn(self) -> wavernn.WaveRNN:
    """The model whose recurrence, conditioning and output layers the lanes share."""
    return wavernn.WaveRNN(self.config, self.mel)

  @property
  def lanes(self) -> int:
    return self.config.lanes

  def frames(self, samples: int) -> int:
    return self.rnn.frames(samples)

  def initial_state(self, batch: int):
    """The state at the start of an utterance: silence."""
    return self.crop_state(jnp.zeros((batch, self.timing.past), jnp.int16))

  def ended(self, state, end_B):
    """The state of `sample`, told how many samples the utterances have in all."""
    return state | {'end': jnp.asarray(end_B, jnp.int32)}


class Subscale(Lanes):
  """The model.

  The state of teacher forcing is a dict: `h` SxBxH, and `pcm` BxN, the last `past`
  samples. That of sampling is described in models/skew.py.
  """

  @property
  def _alone(self) -> bool:
    return self.lanes == 1

  @property
  def _reach(self) -> tuple[int, int]:
    """Positions before and after its own that a lane's context depends on."""
    reach = context.reach(self.config)
    return (0, 0) if self._alone else (reach.past, reach.ahead)

  @functools.cached_property
  def timing(self) -> Timing:
    before, after = self._reach
    return Timing(
        margin=self.rnn.timing.margin, lanes=self.lanes,
        past=self.lanes * max(1, before),  # the lanes' last ones and the context's
        ahead=self.lanes * after,
        delay=self.lanes * skew.schedule(self.config).delay,  # of the last lane
        lag=skew.lag(self.config, self.mel))

  def init(self, seed: int):
    """Parameters drawn from a seed: those of the plain model and `context`."""
    return wavernn.parameters(_Parameters(self.config, self.mel, nnx.Rngs(seed)))

  def crop_state(self, past_BxN):
    """The state at the start of a crop that `past` samples are known to precede."""
    return {'h': jnp.zeros((self.lanes, len(past_BxN), self.config.units)), 'pcm': past_BxN}

  def sampling_state(self, batch: int):
    """The state of `sample` at the start of an utterance."""
    return skew.initial_state(self.config, batch)

  def nats(self, params, state, pcm_BxT, mel_BxFxM):
    """Teacher-forced negative log-likelihood of each sample, in audio order.

    Args:
      params: of `init`.
      state: of `initial_state` or a previous call on a multiple of S samples.
      pcm_BxT: int16 samples from a frame boundary on, and `ahead` more.
      mel_BxFxM: `frames(T)` frames around them, T without those ahead.

    Returns:
      {'coarse': BxT, 'fine': BxT} in nats/sample, and the state after the last.
    """
    samples = pcm_BxT.shape[1] - self.timing.ahead
    h_IxSxBxH, targets, seen = self._run(params, state, pcm_BxT, mel_BxFxM)
    nats = self.rnn.byte_nats(params, h_IxSxBxH, targets, seen)
    before = jnp.concatenate([state['pcm'], pcm_BxT[:, :samples]], axis=1)
    return {byte: unfold(n, samples).T for byte, n in nats.items()}, {
        'h': h_IxSxBxH[-1], 'pcm': before[:, -self.timing.past:]}

  def loss(self, params, state, pcm_BxT, mel_BxFxM, burn_in: int = 0, input_noise=None):
    """Means of `nats` over all samples but the first `burn_in`; as `WaveRNN.loss`."""
    samples = pcm_BxT.shape[1] - self.timing.ahead
    h_IxSxBxH, targets, seen = self._run(params, state, pcm_BxT, mel_BxFxM, input_noise)
    first = burn_in // self.lanes  # positions of which no lane carries a loss
    time = fold(jnp.arange(samples) - burn_in + 1, self.lanes)[first:]  # padding: 0
    weight = jnp.broadcast_to((time > 0)[..., None], h_IxSxBxH[first:, ..., 0].shape)
    return self.rnn.mean_nats(
        params, h_IxSxBxH[first:], {byte: t[first:] for byte, t in targets.items()},
        weight.astype(h_IxSxBxH.dtype), None if seen is None else seen[first:])

  def _run(self, params, state, pcm_BxT, mel_BxFxM, input_noise=None):
    """States IxSxBxH after each sample, the samples' bytes IxSxB, the context IxSxBxC."""
    samples = pcm_BxT.shape[1] - self.timing.ahead
    pcm_BxN = jnp.concatenate([state['pcm'], pcm_BxT], axis=1)
    bytes_NxSxB = [fold(b, self.lanes) for b in audio.split_bytes(pcm_BxN.T)]
    x_TxBxH = conditioning.sample_gates(
        params['conditioning'], mel_BxFxM, samples, self.config, self.mel)
    noise = None if input_noise is None else fold(input_noise, self.lanes)
    h_IxSxBxH, seen = self.states(
        params, state['h'], [fold(x, self.lanes) for x in x_TxBxH],
        audio.scale_byte(jnp.stack(bytes_NxSxB, axis=-1)), noise)
    first = self.timing.past // self.lanes
    targets = {byte: b[first:first + len(h_IxSxBxH)]
               for byte, b in zip(wavernn.BYTES, bytes_NxSxB, strict=True)}
    return h_IxSxBxH, targets, seen

  def states(self, params, h_SxBxH, x_IxSxBxH, bytes_NxSxBx2, input_noise=None):
    """States IxSxBxH and context IxSxBxC of all lanes, from scaled bytes.

    Args:
      params: of `init`.
      h_SxBxH: the state before.
      x_IxSxBxH: gate inputs of the conditioning.
      bytes_NxSxBx2: coarse and fine of `past`, the I positions, and `ahead`.
      input_noise: None, or noise IxSxBx3 on a lane's own bytes.
    """
    first, n = self.timing.past // self.lanes, len(x_IxSxBxH[0])
    current, previous = bytes_NxSxBx2[first:first + n], bytes_NxSxBx2[first - 1:first - 1 + n]
    x_IxSxBxH = self.rnn.add_heard(params, x_IxSxBxH, previous, current[..., :1], input_noise)
    seen = None
    if not self._alone:
      seen = context.features(params['context'], bytes_NxSxBx2.swapaxes(1, 2), self.config)
      before = [current[:, :-k] for k in range(1, self.lanes)]
      x_IxSxBxH = context.add_gate_inputs(
          params['context'], x_IxSxBxH, seen, context.nearest_bytes(before), self.config)
    h_SxBxH = h_SxBxH.astype(x_IxSxBxH[0].dtype)
    return cell.scan(self.rnn.recurrent(params), x_IxSxBxH, h_SxBxH), seen

  def sample(self, params, state, mel_BxFxM, keys_Bx2, temperatures, samples: int,
             unroll: int = 1, draws=None):
    """Draws the next samples of each utterance, all lanes in one scan (models/skew.py).

    Args:
      params: of `init`.
      state: of `sampling_state` or a previous call.
      mel_BxFxM: `frames(samples)` frames and `lag` frames before them.
      keys_Bx2: uint32 (seed, utterance): with the sample index they determine
        every draw.
      temperatures: (coarse, fine); 0 takes the most probable value.
      samples: how many, T, a multiple of S·L.
      unroll: positions drawn by one turn of the loop.
      draws: a function in place of `WaveRNN.draws`.

    Returns:
      int16 BxT, the samples of `delay` samples ago, and the next state.

    Raises:
      ValueError: if S·L does not divide T.
    """
    self.check_block(samples)
    return skew.sample(self.rnn, params, state, mel_BxFxM, keys_Bx2, temperatures, samples,
                       unroll, draws or self.rnn.draws)

  def check_block(self, samples: int) -> None:
    """Raises ValueError if S·L does not divide the samples of a block."""
    step = self.lanes * self.config.context_block
    if samples % step:
      raise ValueError(
          f'block of {samples} samples (block_frames · hop): expected a multiple of lanes · '
          f'context_block = {step}; choose another --config.model.context_block or '
          '--config.evaluation.block_frames.')
