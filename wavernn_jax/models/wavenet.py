"""WaveNet, which the paper compares with: gated dilated causal convolutions, 16-bit output.

    x⁰_t     = W v_t + b                           v: of the samples before t
    [f, g]   = W x_{t−d} + V x_t + c_t             block i, d = 1, 2, 4, .. of its cycle
    z        = tanh(f) ∘ σ(g)
    [r, k]   = U z + b
    xⁱ⁺¹_t   = x_t + r,   skip = Σ k / √blocks
    P(s_t)   = mixture of logistics of O₂ relu(O₁ relu(skip))        mixture.py

The paper's has 30 blocks in 3 cycles of dilations 1 .. 512: two products one after the
other a block, so 60 sequential operations a sample where WaveRNN has 5. Like the gates of
models/conditioning.py, c_t comes from the mel with the bias of the gates in it.

What v is, and whether the mixture is of the samples or of the residuals of a prediction,
is wavenet_inputs.py's.

Teacher forcing runs whole crops in parallel. Sampling makes a step of all blocks from
queues of their past inputs (Paine et al., Fast WaveNet). Both call the same `block`, and
both carry the same state: of each block, the inputs that its dilation still reaches.
Before an utterance these are zero.
"""

import functools

from flax import nnx
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from wavernn_jax import draw, likelihood, products
from wavernn_jax.config import MelConfig, ModelConfig
from wavernn_jax.models import conditioning, context, mixture, wavenet_inputs, wavernn
from wavernn_jax.models.in_order import InOrder


class _Parameters(nnx.Module):

  def __init__(self, config: ModelConfig, mel: MelConfig, rngs: nnx.Rngs):
    units, residual, last = config.units, config.residual, config.blocks - 1
    self.conditioning = conditioning.Conditioning(
        config, mel, rngs, outputs=2 * units * config.blocks)
    inputs = wavenet_inputs.of(config, mel)
    self.input = nnx.Linear(inputs.width, residual, rngs=rngs)
    self.blocks = nnx.List([nnx.Dict({
        'taps': nnx.Linear(2 * residual, 2 * units, use_bias=False, rngs=rngs),
        # Nothing hears the residual of the last block.
        'outputs': nnx.Linear(units, config.skip + (residual if i < last else 0), rngs=rngs),
    }) for i in range(config.blocks)])
    self.outputs = mixture.output_layer(
        config.skip, config.projection, config.mixtures, inputs.scales, rngs)


def block(params, past, x, gates, skip: int, compute_dtype: str):
  """One block at any samples: (r, k), with r None of the last block.

  Args:
    params: of the block.
    past: its inputs [..., R] one dilation before.
    x: its inputs [..., R].
    gates: c_t, [..., G].
    skip: channels of k.
    compute_dtype: of the products.
  """
  kernel = params['taps']['kernel']
  kernel = kernel.astype(products.product_dtype(kernel, compute_dtype))
  taps = jnp.concatenate([past, x], axis=-1)
  f, g = jnp.split(products.product(taps, kernel) + gates, 2, axis=-1)
  outputs = products.linear(params['outputs'], jnp.tanh(f) * jax.nn.sigmoid(g), compute_dtype)
  own = outputs.shape[-1] - skip
  return outputs[..., :own] if own else None, outputs[..., own:]


def _dtype(params):
  return params['input']['kernel'].dtype


class WaveNet(InOrder):
  """The model.

  In its state, `queue` BxAxR has the inputs of each block that its dilation still
  reaches, the oldest first, block after block.
  """

  @functools.cached_property
  def hearing(self):
    """What is heard and coded, of wavenet_inputs.py."""
    return wavenet_inputs.of(self.config, self.mel)

  @functools.cached_property
  def dilations(self) -> tuple[int, ...]:
    """Samples from one tap of each block to the other."""
    cycle = self.config.blocks // self.config.cycles
    return tuple(2 ** (i % cycle) for i in range(self.config.blocks))

  @property
  def reach(self) -> int:
    """Steps whose v a sample depends on."""
    return 1 + sum(self.dilations)

  def init(self, seed: int):
    """Parameters drawn from a seed: a nested dict of float32 arrays."""
    return wavernn.parameters(_Parameters(self.config, self.mel, nnx.Rngs(seed)))

  def _network_state(self, batch: int):
    return {'queue': jnp.zeros((batch, sum(self.dilations), self.config.residual))}

  def nats(self, params, state, pcm_BxT, mel_BxFxM):
    """Teacher-forced negative log-likelihood of each sample.

    Args:
      params: of `init`.
      state: of `initial_state` or a previous call.
      pcm_BxT: int16 samples from a frame boundary on.
      mel_BxFxM: `frames(T)` frames around them.

    Returns:
      {'coarse': BxT, 'fine': BxT} in nats/sample, by the high byte and what the sample
      adds to it (models/mixture.py), and the state after the last.
    """
    components, values_TxB, queue = self._run(params, state, pcm_BxT, mel_BxFxM)
    nats = mixture.nats(components, values_TxB)
    return {byte: n.T for byte, n in nats.items()}, {
        'queue': queue, **self.heard_of(state, pcm_BxT)}

  def loss(self, params, state, pcm_BxT, mel_BxFxM, burn_in: int = 0, input_noise=None):
    """Means of `nats` over all samples but the first `burn_in`.

    Args:
      params, state, pcm_BxT, mel_BxFxM: as for `nats`.
      burn_in: first samples of each crop that carry no loss.
      input_noise: None, or noise TxBx3, of which the first two are added to the value
        and the level of the last sample.

    Returns:
      {'coarse': mean, 'fine': mean} in nats/sample.
    """
    components, values_TxB, _ = self._run(params, state, pcm_BxT, mel_BxFxM, input_noise)
    nats = mixture.nats(components, values_TxB)
    return {byte: n[burn_in:].mean() for byte, n in nats.items()}

  def _run(self, params, state, pcm_BxT, mel_BxFxM, input_noise=None):
    """Mixtures TxBxJ at given samples, the values TxB that they are of, the queues after."""
    step, values_TxB = self.hearing.sequence(
        jnp.concatenate([state['pcm'], pcm_BxT], axis=1), mel_BxFxM, _dtype(params))
    heard_TxBxE = step.heard
    if input_noise is not None:
      heard_TxBxE = heard_TxBxE.at[..., :context.INPUTS].add(input_noise[..., :context.INPUTS])
    outputs_TxBx3J, queue = self.outputs(params, state['queue'], heard_TxBxE, mel_BxFxM)
    return mixture.mixture(outputs_TxBx3J, step.unit), values_TxB, queue

  def outputs(self, params, queue_BxAxR, heard_TxBxE, mel_BxFxM):
    """Outputs TxBx3J of the last layer from what is heard, and the queues after that."""
    steps, x_TxBxR = len(heard_TxBxE), self._input(params, heard_TxBxE)
    weights_TxF = jnp.asarray(conditioning.interpolation(steps, self.mel), x_TxBxR.dtype)
    queues = self._split(queue_BxAxR.astype(x_TxBxR.dtype).swapaxes(0, 1))
    skip, kept = 0, []
    for i, gates_FxBxY in enumerate(self._frame_gates(params, mel_BxFxM)):
      known_NxBxR = jnp.concatenate([queues[i], x_TxBxR])
      kept.append(known_NxBxR[steps:])
      r, k = self._block(params, i, known_NxBxR[:steps], x_TxBxR,
                         conditioning.upsample(weights_TxF, gates_FxBxY))
      skip, x_TxBxR = skip + k, x_TxBxR if r is None else x_TxBxR + r
    return self._last(params, skip), jnp.concatenate(kept).swapaxes(0, 1)

  def sample(self, params, state, mel_BxFxM, keys_Bx2, temperatures, samples: int,
             unroll: int = 1):
    """Draws the next samples of each utterance, one `lax.scan` over them.

    Args:
      params: of `init`.
      state: of `sampling_state` or a previous call.
      mel_BxFxM: `frames(samples)` frames.
      keys_Bx2: uint32 (seed, utterance): with the sample index they determine
        every draw.
      temperatures: of `mixture.sample`: of the component and of the place in it.
      samples: how many, T.
      unroll: samples made by one turn of the loop.

    Returns:
      int16 BxT and the state after the last sample.
    """
    gates_FxUxBxY = jnp.stack(self._frame_gates(params, mel_BxFxM), axis=1)
    filters, row_T = self.hearing.filters(mel_BxFxM, samples)
    dtype = _dtype(params)

    def body(carry, at_t):
      queue_AxBxR, tape = carry
      ring_U, (frame, weight), row, uniform_2xB = at_t
      two = lax.dynamic_slice_in_dim(gates_FxUxBxY, frame, 2)
      step = self.hearing.before(tape, wavenet_inputs.rows(filters, row), dtype)
      outputs_Bx3J, inputs_UxBxR = self._step(
          params, queue_AxBxR[ring_U], step.heard, (1 - weight) * two[0] + weight * two[1])
      value_B = mixture.sample(
          mixture.mixture(outputs_Bx3J, step.unit), uniform_2xB, temperatures)
      pcm_B, tape = self.hearing.after(tape, value_B, step)
      return (queue_AxBxR.at[ring_U].set(inputs_UxBxR), tape), pcm_B

    carry = (state['queue'].astype(dtype).swapaxes(0, 1),
             self.hearing.start(state['pcm'], filters))
    (queue_AxBxR, _), pcm_TxB = lax.scan(
        body, carry, (self._ring(samples), self._between_frames(samples, dtype), row_T,
                      draw.uniforms(keys_Bx2, state['index'], samples)), unroll=unroll)
    return pcm_TxB.T, {'queue': self._oldest_first(queue_AxBxR, samples).swapaxes(0, 1),
                       **self.heard_of(state, pcm_TxB.T)}

  def _step(self, params, past_UxBxR, heard_BxE, gates_UxBxY):
    """Outputs Bx3J at one sample from the past inputs of all blocks, and the new ones."""
    x_BxR, skip, inputs = self._input(params, heard_BxE), 0, []
    for i in range(self.config.blocks):
      inputs.append(x_BxR)
      r, k = self._block(params, i, past_UxBxR[i], x_BxR, gates_UxBxY[i])
      skip, x_BxR = skip + k, x_BxR if r is None else x_BxR + r
    return self._last(params, skip), jnp.stack(inputs)

  def _between_frames(self, samples: int, dtype):
    """The frame T before each sample, from frame −1 on, and the weight T of the one after it."""
    position_T = conditioning.frame_position(np.arange(samples), self.mel)
    frame_T = np.floor(position_T).astype(np.int32)
    return frame_T, jnp.asarray(position_T - frame_T, dtype)

  def _ring(self, samples: int) -> np.ndarray:
    """Rows TxU of the queues that each step takes and then replaces, of queues in order."""
    dilations = np.array(self.dilations)
    first = np.cumsum(dilations) - dilations
    return (first + np.arange(samples)[:, None] % dilations).astype(np.int32)

  def _oldest_first(self, queue_AxBxR, samples: int):
    """Queues in order again after so many steps of `_ring`."""
    return jnp.concatenate([jnp.roll(part, -(samples % len(part)), axis=0)
                            for part in self._split(queue_AxBxR)])

  def _split(self, queue_AxBxR):
    """The queue of each block."""
    return jnp.split(queue_AxBxR, np.cumsum(self.dilations)[:-1])

  def _frame_gates(self, params, mel_BxFxM):
    """Gates of each block at frame rate, FxBxY each."""
    gates_FxBxG = conditioning.frame_gates(
        params['conditioning'], mel_BxFxM, self.config, self.mel)
    return jnp.split(gates_FxBxG, self.config.blocks, axis=-1)

  def _input(self, params, heard):
    return products.linear(params['input'], heard, self.config.compute_dtype)

  def _block(self, params, i: int, past, x, gates):
    return block(params['blocks'][str(i)], past, x, gates, self.config.skip,
                 self.config.compute_dtype)

  def _last(self, params, skip):
    hidden = jax.nn.relu(skip * self.config.blocks ** -0.5)
    return likelihood.layer_logits(params['outputs'], hidden, self.config.compute_dtype)
