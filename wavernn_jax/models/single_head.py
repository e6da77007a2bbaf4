"""An ablation of §2's dual softmax: WaveRNN with one mixture of logistics for the sample.

    h_t    = GRU(h_{t−1}, x_t)              x_t without c_t: all units at once
    P(s_t) = mixture of logistics of O_2 relu(O_1 h_t)         mixture.py

Four products one after the other become two, R and then O_1, O_2, and nothing has to be
drawn between the halves of the state. With a prediction the mixture is of the residual, in
units of its expected size σ.
"""

import dataclasses

from flax import nnx
import jax
from jax import lax
import jax.numpy as jnp

from wavernn_jax import audio, likelihood, products
from wavernn_jax.config import MelConfig, ModelConfig
from wavernn_jax.models import cell, conditioning, hearing, mixture, wavernn


class _Parameters(wavernn.Recurrence):

  def __init__(self, config: ModelConfig, mel: MelConfig, rngs: nnx.Rngs):
    super().__init__(config, mel, rngs)
    width = hearing.build(config, mel).width
    self.previous = nnx.Param(
        nnx.initializers.normal(0.1)(rngs.params(), (width, 3 * config.units)))
    if config.reset_bias:
      self.reset_bias = nnx.Param(jnp.zeros((config.units,)))
    scales = (mixture.RESIDUAL_SCALES if config.prediction == 'spectral'
              else mixture.SAMPLE_SCALES)
    self.outputs = nnx.Dict({'sample': mixture.output_layer(
        config.units, config.projection, config.mixtures, scales, rngs)})


@dataclasses.dataclass(frozen=True, eq=False)
class SingleHead(wavernn.WaveRNN):
  """The model; its state is that of `wavernn.WaveRNN`."""

  def init(self, seed: int):
    return wavernn.parameters(_Parameters(self.config, self.mel, nnx.Rngs(seed)))

  def nats(self, params, state, pcm_BxT, mel_BxFxM):
    h_TxBxH, heard = self._run(params, state, pcm_BxT, mel_BxFxM)
    nats = self._sample_nats(params, h_TxBxH, heard)
    return {byte: n.T for byte, n in nats.items()}, {
        'h': h_TxBxH[-1], **self.heard_of(state, pcm_BxT)}

  def loss(self, params, state, pcm_BxT, mel_BxFxM, burn_in: int = 0, input_noise=None):
    h_TxBxH, heard = self._run(params, state, pcm_BxT, mel_BxFxM, input_noise)
    nats = self._sample_nats(params, h_TxBxH, heard)
    return {byte: n[burn_in:].mean() for byte, n in nats.items()}

  def _sample_nats(self, params, h_TxBxH, heard: hearing.Sequence):
    """Nats TxB of the values that are coded, by their bytes (mixture.py)."""
    values_TxB = audio.join_bytes(heard.targets['coarse'], heard.targets['fine'])
    return mixture.nats(self._mixture(params, h_TxBxH, heard.scale), values_TxB)

  def _mixture(self, params, h, scale):
    outputs = likelihood.layer_logits(params['outputs']['sample'], h, self.config.compute_dtype)
    return mixture.mixture(outputs, mixture.UNIT if scale is None else scale)

  def add_heard(self, params, x_TxBxH, previous_TxBxK, current_TxBxC, input_noise=None):
    """Gate inputs with the contributions of the samples before; `current` is heard by none."""
    if input_noise is not None:
      previous_TxBxK = previous_TxBxK + input_noise[..., :previous_TxBxK.shape[-1]]
    heard = previous_TxBxK.astype(x_TxBxH[0].dtype)
    return tuple(conditioning.add_inputs(x, heard, w) for x, w in zip(
        x_TxBxH, self._weights(params), strict=True))

  def _weights(self, params):
    """Weights KxH of what is heard, on each gate."""
    gains = jnp.asarray(self.hearing.gains[:-1, None], params['previous'].dtype)
    return jnp.split(params['previous'] * gains, 3, axis=1)

  def draws(self, params, carry, x_TxBxH, uniform_Tx2xB, temperatures, context_TxBxC=None,
            live_TxB=None, unroll: int = 1, filters=None, row_T=None):
    """As of `wavernn.WaveRNN`, without context; temperatures are those of `mixture.sample`."""
    del context_TxBxC, live_TxB
    recurrent = products.loop_product(self.recurrent(params), len(x_TxBxH[0][0]))
    weights_3xKxH = self._weights(params)
    bias_G = cell.reset_bias(params['reset_bias']) if 'reset_bias' in params else 0

    def body(carry, at_t):
      h, *tape = carry
      x, uniform_2xB, row = at_t
      at = None if filters is None else jax.tree.map(lambda f: f[row], filters)
      previous, predicted = self.hearing.before(tape, at)
      x = wavernn.add(x, weights_3xKxH, previous)
      h = cell.part(recurrent(h) + bias_G, h, x, 0, 1)
      components = self._mixture(params, h, None if at is None else at.scale)
      value_B = mixture.sample(components, uniform_2xB, temperatures)
      coarse, fine = audio.split_bytes(value_B.astype(jnp.int16))
      pcm_B, tape = self.hearing.after(tape, coarse, fine, predicted, at)
      return (h, *tape), pcm_B

    return lax.scan(body, carry, (x_TxBxH, uniform_Tx2xB, row_T), unroll=unroll)
