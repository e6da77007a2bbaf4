"""§2 WaveRNN: one recurrent layer, a dual softmax over coarse and fine bytes.

    x_t = [c_{t−1}, f_{t−1}, c_t]          c_t reaches the fine half only
    h_t = GRU(h_{t−1}, x_t)                models/cell.py
    y_c, y_f = split(h_t)
    P(c_t) = softmax(O_2 relu(O_1 y_c))
    P(f_t) = softmax(O_4 relu(O_3 y_f))

The paper masks the weights of c_t so that the coarse prediction never sees its
own answer; here c_t has its own weights, for the fine half only, and there is
nothing to mask.
"""

import functools

from flax import nnx
import jax
from jax import lax
import jax.numpy as jnp

from wavernn_jax import audio, draw, likelihood, products
from wavernn_jax.config import MelConfig, ModelConfig
from wavernn_jax.models import cell, conditioning, hearing
from wavernn_jax.models.in_order import InOrder

BYTES = ('coarse', 'fine')
NO_PRIORS = dict.fromkeys(BYTES)


class Recurrence(nnx.Module):
  """Parameters that all models have."""

  def __init__(self, config: ModelConfig, mel: MelConfig, rngs: nnx.Rngs):
    square = nnx.initializers.orthogonal()
    self.conditioning = conditioning.Conditioning(config, mel, rngs)
    # Three matrices, since §3 sorts each gate's weights separately.
    self.recurrent = nnx.Dict({
        gate: nnx.Param(square(rngs.params(), (config.units, config.units)))
        for gate in 'ure'})


class Parameters(Recurrence):
  """Parameters of the model; `context` further inputs of the coarse output layer.

  The fine byte hears them through the state alone: as its output layer's inputs
  they cost 0.08 nats/sample (experiments/results, subscale).
  """

  def __init__(self, config: ModelConfig, mel: MelConfig, rngs: nnx.Rngs, context: int = 0):
    super().__init__(config, mel, rngs)
    half = config.units // 2
    small = nnx.initializers.normal(0.1)
    self.previous = nnx.Param(
        small(rngs.params(), (hearing.build(config, mel).width, 3 * config.units)))
    self.coarse = nnx.Param(small(rngs.params(), (3, half)))
    if config.reset_bias:
      self.reset_bias = nnx.Param(jnp.zeros((config.units,)))
    if config.prediction == 'spectral':
      self.prior = nnx.Param(jnp.full((1,), hearing.PRIOR))
    # O_1, O_2 of the coarse byte and O_3, O_4 of the fine one.
    self.outputs = nnx.Dict({
        byte: output_layer(half, config.projection, likelihood.BYTE_VALUES, rngs,
                           context if byte == 'coarse' else 0,
                           silent=config.prediction == 'spectral')
        for byte in BYTES})


def output_layer(inputs: int, projection: int, values: int, rngs: nnx.Rngs,
                 context: int = 0, silent: bool = False) -> nnx.Dict:
  """Parameters of one output layer of likelihood.py.

  The `context` further inputs have no influence at first: what the context
  network says before it is trained would be noise. A `silent` layer has logits of
  0 at first, which leave a prior as it is.
  """
  last = nnx.initializers.zeros if silent else nnx.initializers.lecun_normal()

  def first(key, shape, *args):
    kernel = nnx.initializers.lecun_normal()(key, (inputs, shape[1]), *args)
    return jnp.pad(kernel, ((0, context), (0, 0)))

  return nnx.Dict({
      'hidden': nnx.Linear(inputs + context, projection, kernel_init=first, rngs=rngs),
      'output': nnx.Linear(projection, values, kernel_init=last, rngs=rngs)})


class WaveRNN(InOrder):
  """The model as functions of parameters and state (system.py); `h` BxH is in the state."""

  @functools.cached_property
  def hearing(self):
    """What its steps hear, and what their bytes stand for."""
    return hearing.build(self.config, self.mel)

  def init(self, seed: int):
    """Parameters drawn from a seed: a nested dict of float32 arrays."""
    return parameters(Parameters(self.config, self.mel, nnx.Rngs(seed)))

  def _network_state(self, batch: int):
    return {'h': jnp.zeros((batch, self.config.units))}

  def nats(self, params, state, pcm_BxT, mel_BxFxM):
    """Teacher-forced nats of each sample; see `System`."""
    h_TxBxH, heard = self._run(params, state, pcm_BxT, mel_BxFxM)
    priors = self.priors(params, heard.scale, heard.targets['coarse'])
    nats = self.byte_nats(params, h_TxBxH, heard.targets, priors=priors)
    return {byte: n.T for byte, n in nats.items()}, {
        'h': h_TxBxH[-1], **self.heard_of(state, pcm_BxT)}

  def loss(self, params, state, pcm_BxT, mel_BxFxM, burn_in: int = 0, input_noise=None):
    """Means of `nats` after the first `burn_in` samples; see `System`."""
    h_TxBxH, heard = self._run(params, state, pcm_BxT, mel_BxFxM, input_noise)
    targets = {byte: t[burn_in:] for byte, t in heard.targets.items()}
    weight_TxB = jnp.ones_like(h_TxBxH[burn_in:, :, 0])
    scale_TxB = None if heard.scale is None else heard.scale[burn_in:]
    return self.mean_nats(params, h_TxBxH[burn_in:], targets, weight_TxB,
                          priors=self.priors(params, scale_TxB, targets['coarse']))

  def _run(self, params, state, pcm_BxT, mel_BxFxM, input_noise=None):
    """States TxBxH after each of the given samples, and what was heard of them."""
    x_TxBxH, heard = self.gate_inputs(params, state, pcm_BxT, mel_BxFxM, input_noise)
    return self.states(params, x_TxBxH, state['h']), heard

  def states(self, params, x_TxBxH, h_BxH):
    """The states TxBxH after each of given gate inputs."""
    operands = self.recurrent(params), x_TxBxH, h_BxH.astype(x_TxBxH[0].dtype)
    if 'reset_bias' in params:
      return cell.autodiff_scan(*operands, cell.reset_bias(params['reset_bias']),
                                self.config.activations)
    return cell.scan(*operands, self.config.activations)

  def priors(self, params, scale, coarse):
    """Slope and ramp of each byte's logits (`hearing.priors`), None without a prediction."""
    if scale is None:
      return NO_PRIORS
    return hearing.priors(params['prior'][0], scale, coarse)

  def byte_nats(self, params, h_TxBxH, targets, context_TxBxC=None, priors=NO_PRIORS):
    """Nats TxB of each byte's targets TxB after states, with context where there is one."""
    return {byte: likelihood.layer_nats(params['outputs'][byte], y, targets[byte],
                                        self.config.compute_dtype, priors[byte],
                                        self.config.activations)
            for byte, y in zip(BYTES, output_inputs(h_TxBxH, context_TxBxC), strict=True)}

  def mean_nats(self, params, h_TxBxH, targets, weight_TxB, context_TxBxC=None, priors=NO_PRIORS):
    """Means of `byte_nats` by weight, fast to differentiate."""
    return {byte: likelihood.mean_nats(params['outputs'][byte], y, targets[byte], weight_TxB,
                                       self.config.compute_dtype, priors[byte],
                                       self.config.activations)
            for byte, y in zip(BYTES, output_inputs(h_TxBxH, context_TxBxC), strict=True)}

  def sample(self, params, state, mel_BxFxM, keys_Bx2, temperatures, samples: int,
             unroll: int = 1):
    """Draws the next samples of each utterance, one `lax.scan` over them.

    Args:
      params: of `init`.
      state: of `sampling_state` or a previous call.
      mel_BxFxM: `frames(samples)` frames.
      keys_Bx2: uint32 (seed, utterance): with the sample index they determine
        every draw.
      temperatures: (coarse, fine); 0 takes the most probable value.
      samples: how many, T.
      unroll: samples made by one turn of the loop.

    Returns:
      int16 BxT and the state after the last sample.
    """
    x_TxBxH = conditioning.sample_gates(
        params['conditioning'], mel_BxFxM, samples, self.config, self.mel)
    uniform_Tx2xB = draw.uniforms(keys_Bx2, state['index'], samples)
    filters, row_T = self.hearing.filters(mel_BxFxM, samples)
    carry = (state['h'], *self.hearing.start(state['pcm'], filters))
    (h, *_), pcm_TxB = self.draws(params, carry, x_TxBxH, uniform_Tx2xB, temperatures,
                                  unroll=unroll, filters=filters, row_T=row_T)
    return pcm_TxB.T, {'h': h, **self.heard_of(state, pcm_TxB.T)}

  def draws(self, params, carry, x_TxBxH, uniform_Tx2xB, temperatures, context_TxBxC=None,
            live_TxB=None, unroll: int = 1, filters=None, row_T=None):
    """The scan of `sample` over given gate inputs.

    Args:
      params: of `init`.
      carry: h BxH and the tape of `hearing.start`.
      x_TxBxH: gate inputs without what is heard.
      uniform_Tx2xB, temperatures: of the draws.
      context_TxBxC: further inputs of the coarse output layer.
      live_TxB: where it is false the state stays and the sample is silent.
      unroll: samples made by one turn of the loop.
      filters, row_T: of `hearing.filters`.

    Returns:
      the carry after the last sample, and int16 samples TxB.
    """
    recurrent = products.loop_product(self.recurrent(params), len(x_TxBxH[0][0]))
    weights_3xKxH = self._heard_weights(params)
    bias_G = cell.reset_bias(params['reset_bias']) if 'reset_bias' in params else 0

    def body(carry, at_t):
      h, *tape = carry
      x, uniform_2xB, context, live, row = at_t
      g_BxG = recurrent(products.rounded(h, self.config.activations)) + bias_G  # for both halves
      at = None if filters is None else jax.tree.map(lambda f: f[row], filters)
      previous, predicted = self.hearing.before(tape, at)
      half = functools.partial(self._half, params, h, g_BxG, uniform_2xB, temperatures,
                               None if at is None else at.scale)
      x = add(x, [w[:-1] for w in weights_3xKxH], previous)
      y_coarse, coarse = half(x, 0, context=context)
      x = add(x, [w[-1:] for w in weights_3xKxH], self.hearing.current(coarse, at))
      y_fine, fine = half(x, 1, coarse)
      h_new = jnp.concatenate([y_coarse, y_fine], axis=1)
      if live is not None:
        h_new, coarse, fine = _where_live(live, (h_new, coarse, fine), h)
      pcm_B, tape = self.hearing.after(tape, coarse, fine, predicted, at)
      return (h_new, *tape), pcm_B

    return lax.scan(body, carry, (x_TxBxH, uniform_Tx2xB, context_TxBxC, live_TxB, row_T),
                    unroll=unroll)

  def _half(self, params, h, g_BxG, uniform_2xB, temperatures, scale, x, i, coarse=0,
            context=None):
    """The coarse (0) or fine (1) units of h_t, and the byte drawn from them."""
    y = cell.part(g_BxG, h, [jnp.split(v, 2, axis=1)[i] for v in x], i, 2)
    logits = likelihood.layer_logits(
        params['outputs'][BYTES[i]], _beside(y, context), self.config.compute_dtype,
        self.priors(params, scale, coarse)[BYTES[i]], self.config.activations)
    return y, draw.categorical(logits, uniform_2xB[i], temperatures[i])

  def recurrent(self, params):
    """R = [R_u, R_r, R_e], HxG, in the type of the products."""
    R_HxG = jnp.concatenate([params['recurrent'][gate] for gate in 'ure'], axis=1)
    return R_HxG.astype(products.product_dtype(R_HxG, self.config.compute_dtype))

  def gate_inputs(self, params, state, pcm_BxT, mel_BxFxM, input_noise=None):
    """(x_u, x_r, x_e), each TxBxH, of given samples, and what was heard of them."""
    heard = self.hearing.sequence(jnp.concatenate([state['pcm'], pcm_BxT], axis=1), mel_BxFxM)
    x_TxBxH = conditioning.sample_gates(
        params['conditioning'], mel_BxFxM, pcm_BxT.shape[1], self.config, self.mel)
    return self.add_heard(params, x_TxBxH, heard.previous, heard.current, input_noise), heard

  def add_heard(self, params, x_TxBxH, previous_TxBxK, current_TxBxC, input_noise=None):
    """Gate inputs with the contributions of what is heard, and of c_t."""
    heard = jnp.concatenate([previous_TxBxK, current_TxBxC], axis=-1)
    if input_noise is not None:
      heard = heard + input_noise
    heard = heard.astype(x_TxBxH[0].dtype)
    return tuple(conditioning.add_inputs(x, heard, w) for x, w in zip(
        x_TxBxH, self._heard_weights(params), strict=True))

  def _heard_weights(self, params):
    """Weights of what is heard, then of c_t, on each gate, (K+1)xH; c_t's coarse half is zero."""
    coarse_3xH = jnp.pad(params['coarse'], ((0, 0), (self.config.units // 2, 0)))
    return [jnp.concatenate([previous, coarse[None]]) * self.hearing.gains[:, None].astype(
        coarse.dtype) for previous, coarse in zip(
            jnp.split(params['previous'], 3, axis=1), coarse_3xH, strict=True)]


def _where_live(live_B, drawn, h_BxH):
  """State and bytes after a step: where nothing is drawn the same state, and silence."""
  h_new_BxH, *drawn_bytes = drawn
  silent = audio.split_bytes(jnp.zeros((), jnp.int16))
  return jnp.where(live_B[:, None], h_new_BxH, h_BxH), *(
      jnp.where(live_B, b, s) for b, s in zip(drawn_bytes, silent, strict=True))


def _beside(y, context):
  """Inputs of the coarse output layer: its half of the state, then the context."""
  return y if context is None else jnp.concatenate([y, context], axis=-1)


def output_inputs(h, context):
  """Inputs of the coarse and of the fine output layer."""
  coarse, fine = jnp.split(h, 2, axis=-1)
  return [_beside(coarse, context), fine]


def add(x, weights_3xKxH, heard_BxK):
  """Gate inputs BxH with the contributions of what is heard."""
  return tuple(v + sum(heard_BxK[:, k, None] * w for k, w in enumerate(weights_KxH))
               for v, weights_KxH in zip(x, weights_3xKxH, strict=True))


def parameters(module: nnx.Module):
  """The parameters of a module as a nested dict of arrays."""
  return _string_keys(nnx.to_pure_dict(nnx.state(module, nnx.Param)))


def _string_keys(tree):
  """A pure dict whose list indices are strings, as checkpoints and exports keep them."""
  if isinstance(tree, dict):
    return {str(k): _string_keys(v) for k, v in tree.items()}
  return jnp.asarray(tree)
