"""A mixture of discretised logistics over 16-bit values (Salimans et al., PixelCNN++).

    P(x) = Σ_j π_j [σ((x + ½ − μ_j) / s_j) − σ((x − ½ − μ_j) / s_j)]

for integers x in −2¹⁵ .. 2¹⁵ − 1; the outermost two also take what lies beyond them, so
that all sum to 1. With a = (first − ½ − μ) / s and b = a + n / s the mass of n integers is

    σ(b) − σ(a) = σ(b) σ(−a) (1 − e^(−n/s)),

a product without any difference of near numbers: its logarithm is exact to float32 in the
far tails, too, and needs no case but the two ends.

WaveNet's output layer; WaveRNN may have it in place of its two softmaxes (single_head.py).
"""

import typing

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from wavernn_jax import audio, draw

FIELDS = 3  # outputs of a layer for each component: logit of its weight, mean, log scale
# Of what the means and scales of a layer are in, where nothing else says how large a
# sample is. Speech lies within a few hundredths of full scale most of the time.
UNIT = 512.0
# Log scales of untrained components, in units. For samples: from 5 to 1,400. For residuals
# of expected size 1: ten of these are a Laplace of scale 0.7 to 0.003 nats.
SAMPLE_SCALES, RESIDUAL_SCALES = (-4.6, 1.0), (-1.5, -0.1)
LEAST_SCALE = 0.05  # in 16-bit steps: one value then has all but 1e−4 of the mass
_LARGEST_LOG_SCALE = 12.0  # in units; beyond, only the ends would have any mass
_FIRST, _VALUES = -2**15, 2**16
_COARSE = 256  # values that share a high byte
_GROUP = 16  # `draw.categorical` takes multiples of so many values


class Mixture(typing.NamedTuple):
  """Components in the last axis: logits of their weights; means and scales in 16-bit steps."""

  logits: jax.Array
  mean: jax.Array
  scale: jax.Array


def bias(components: int, scales=SAMPLE_SCALES) -> np.ndarray:
  """Bias 3J of an output layer with which untrained components are zero-mean and spread."""
  spread = np.linspace(*scales, components) if components > 1 else np.array([np.mean(scales)])
  return np.concatenate([np.zeros(2 * components), spread]).astype(np.float32)


def output_layer(inputs: int, projection: int, components: int, scales,
                 rngs: nnx.Rngs) -> nnx.Dict:
  """Parameters of an output layer of likelihood.py that gives `outputs` of `mixture`."""
  return nnx.Dict({
      'hidden': nnx.Linear(inputs, projection, rngs=rngs),
      'output': nnx.Linear(
          projection, FIELDS * components, rngs=rngs,
          # Small beside the bias, which spreads the components.
          kernel_init=nnx.initializers.variance_scaling(0.01, 'fan_in', 'truncated_normal'),
          bias_init=lambda *_: jnp.asarray(bias(components, scales)))})


def mixture(outputs_Nx3J, unit) -> Mixture:
  """The mixtures that a layer's outputs [..., 3J] mean.

  Args:
    outputs_Nx3J: logits, means and log scales.
    unit: 16-bit steps, a number or [...], that means and scales are relative to.
  """
  logits, mean, log_scale = jnp.split(outputs_Nx3J, FIELDS, axis=-1)
  unit = jnp.asarray(unit, mean.dtype)[..., None]
  scale = unit * jnp.exp(jnp.minimum(log_scale, _LARGEST_LOG_SCALE))
  return Mixture(logits, unit * mean, scale + LEAST_SCALE)


def log_mass(components: Mixture, first, count: int):
  """Log of the mass [...] of the `count` values first, first + 1, .. of the 16-bit range."""
  first = first.astype(components.mean.dtype)[..., None]
  low = (first - 0.5 - components.mean) / components.scale
  high = (first + (count - 0.5) - components.mean) / components.scale
  below_high, above_low = jax.nn.log_sigmoid(high), jax.nn.log_sigmoid(-low)
  inside = below_high + above_low + jnp.log(-jnp.expm1(-count / components.scale))
  at_end = jnp.where(first == _FIRST, below_high, inside)
  mass = jnp.where(first + count == _FIRST + _VALUES, above_low, at_end)
  return jax.nn.logsumexp(jax.nn.log_softmax(components.logits) + mass, axis=-1)


def nats(components: Mixture, values):
  """{'coarse': [...], 'fine': [...]} in nats of int16 values [...].

  The coarse part is that of the 256 values with the same high byte, the fine one what
  the value itself adds: together the negative logarithm of its own probability.
  """
  coarse, _ = audio.split_bytes(values)
  of_coarse = -log_mass(components, coarse * _COARSE + _FIRST, _COARSE)
  return {'coarse': of_coarse, 'fine': -log_mass(components, values, 1) - of_coarse}


def sample(components: Mixture, uniform_2xN, temperatures):
  """Draws int32 values [N] in the range of 16 bits, each from two uniforms.

  The first uniform chooses the component, the second the place in it by the inverse of
  its distribution, rounded to the value whose mass that place belongs to.

  Args:
    components: of N mixtures, NxJ.
    uniform_2xN: of `draw.uniforms`.
    temperatures: of the choice and of the scale. At t the density p is drawn as pᵗ⁻¹ is,
      of components that lie apart; 0 takes the mean of the one that is highest there.
  """
  log_scale = jnp.log(components.scale)
  logits = components.logits - log_scale + temperatures[0] * log_scale
  padding = -logits.shape[-1] % _GROUP
  padded = jnp.pad(logits, ((0, 0), (0, padding)), constant_values=-jnp.inf)
  chosen = draw.categorical(padded, uniform_2xN[0], temperatures[0])
  chosen = jnp.minimum(chosen, logits.shape[-1] - 1)
  one_hot = chosen[:, None] == jnp.arange(logits.shape[-1])
  mean, scale = (jnp.where(one_hot, part, 0).sum(axis=-1) for part in components[1:])
  place = mean + temperatures[1] * scale * _logit(uniform_2xN[1].astype(mean.dtype))
  return jnp.clip(jnp.floor(place + 0.5), _FIRST, _FIRST + _VALUES - 1).astype(jnp.int32)


def _logit(uniform):
  """log(u / (1 − u)) in the middle of the 2⁻²⁴ that each of `draw.uniforms` stands for."""
  half = 2.0 ** -25
  return jnp.log(uniform + half) - jnp.log(1 - uniform - half)
