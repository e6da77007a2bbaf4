"""§4, the context of a lane: a masked dilated CNN over the lanes drawn before it.

At position i, lane s sees the samples x[S·k + z] of the lanes z < s at positions
k ≤ i + F. The mask is on the connections of the first layer:

    x_0[i, s] = e_s + Σ_z<s Σ_κ (W_κ,s−z + V_κ,s,z) x[S·(i + κ) + z] / |S·κ + z − s|
    x_l[i, s] = x_l−1[i] + relu(A_l [x_l−1[i − d_l], x_l−1[i], x_l−1[i + f_l]] + a_l)

with d_l = 1, 2, 4, .. and f_l chosen so that the last layer reaches exactly F
positions ahead. W belongs to distances in time and is shared by all lanes, V is
a lane's own correction, e the lane embedding; no weight is ever masked away.
The distance divides because the nearest samples say most, and because Adam moves
all weights alike: without it the sum over all samples, which are alike too, would
swing at each update. A sample is heard as its value and its level (`hear`); the
residual path carries x_0, linear in both, to the gates and the coarse output layer.
What lies further back than the network reaches (`past` positions) is heard through
the recurrent state, which has seen the context of all earlier positions.

The samples just before a lane's own, those of the lanes before it at the same
position, also reach its gates directly, as bytes with the plain model's gain. They
say most, and the fine byte is learnt from them; the network, which has no influence
at first, adds the rest.

All convolutions are 'valid'. `features` runs them over a window of samples,
`block_features` over what is new, with cached activations; both give the same.
"""

import dataclasses
import math

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from wavernn_jax import products
from wavernn_jax.config import ModelConfig
from wavernn_jax.models import hearing

GAIN = 16.0  # of a sample: speech lies within a few hundredths of [−1, 1] most of the time

INPUTS = 2  # of the network for each sample that it hears


@dataclasses.dataclass(frozen=True)
class Reach:
  """Which positions the layers see.

  The first layer sees i − near .. i + near_ahead; each of the others sees i − d, i and
  i + f, for (d, f) in `dilations`.
  """

  near: int
  near_ahead: int
  dilations: tuple[tuple[int, int], ...]

  @property
  def past(self) -> int:
    """Positions before its own that an output depends on."""
    return self.near + sum(d for d, _ in self.dilations)

  @property
  def ahead(self) -> int:
    """Positions after its own that an output depends on: F."""
    return self.near_ahead + sum(f for _, f in self.dilations)


def reach(config: ModelConfig) -> Reach:
  """The reach of a configuration.

  F is halved from the last layer down, so that no position within it is left out.
  """
  near = config.context_kernel // 2
  near_ahead = min(near, config.horizon)
  left, steps = config.horizon - near_ahead, []
  for _ in range(config.context_layers):
    steps.append(math.ceil(left / 2))
    left -= steps[-1]
  dilations = tuple((2**layer, f) for layer, f in enumerate(reversed(steps)))
  return Reach(near, near_ahead, dilations)


class Context(nnx.Module):
  """Parameters of the network, from the bytes of all lanes to C channels a lane."""

  def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
    lanes, channels, r = config.lanes, config.context_channels, reach(config)
    taps = r.near + 1 + r.near_ahead
    normal = nnx.initializers.normal(0.5)
    self.distances = nnx.Param(normal(rngs.params(), (taps, lanes - 1, INPUTS, channels)))
    self.pairs = nnx.Param(jnp.zeros((taps, lanes * (lanes - 1) // 2, INPUTS, channels)))
    self.embedding = nnx.Param(
        nnx.initializers.normal(0.3)(rngs.params(), (lanes, channels)))
    # The residual sum keeps its scale however many layers add to it.
    small = nnx.initializers.variance_scaling(
        1 / max(1, config.context_layers), 'fan_in', 'normal')
    self.layers = nnx.List([
        nnx.Linear(3 * channels, channels, kernel_init=small, rngs=rngs) for _ in r.dilations])
    self.gates = nnx.Linear(channels, 3 * config.units, use_bias=False, rngs=rngs,
                            kernel_init=nnx.initializers.zeros)
    self.nearest = nnx.Param(nnx.initializers.normal(0.1)(
        rngs.params(), (config.lanes - 1, INPUTS, 3 * config.units)))


def nearest_bytes(before):
  """Inputs IxSxBxK of the gates, K = 2(S − 1): the bytes of the lanes before each lane.

  They are zero where a lane has fewer lanes before it.

  Args:
    before: for k = 1 .. S − 1, scaled bytes Ix(S − k)xBx2 of the lanes that are k lanes
      before another.
  """
  padded = [jnp.pad(b, ((0, 0), (k, 0), (0, 0), (0, 0))) for k, b in enumerate(before, start=1)]
  return jnp.concatenate(padded, axis=-1)


def nearest_weights(params):
  """Weights KxG of the bytes of `nearest_bytes`, those of the nearest lane first."""
  gain = jnp.asarray([[hearing.COARSE_GAIN], [1]], params['nearest'].dtype)
  return (params['nearest'] * gain).reshape(-1, params['nearest'].shape[-1])


def hear(bytes_Nx2):
  """Inputs of the network [..., 2] from scaled bytes [..., 2]: value and level.

  The value is the sample itself, as linear prediction takes it; the level is its
  logarithm to both sides of zero, for quiet speech. Each tells all 65,536 samples apart
  in float32, and neither jumps, as the fine byte does, where the coarse byte changes.
  """
  coarse, fine = bytes_Nx2[..., 0], bytes_Nx2[..., 1]
  return hear_value(127.5 * (256 * coarse + fine) - 0.5)


def hear_value(value, gains=(GAIN, 1.0)):
  """`hear` of samples that are given as floats of 16-bit size.

  Args:
    value: −32768 .. 32767.
    gains: what value and level are at full scale.
  """
  level = jnp.sign(value) * jnp.log1p(jnp.abs(value))
  return jnp.stack([value * (gains[0] / 32_768), level * (gains[1] / np.log(32_768))], axis=-1)


def first_kernel(params, config: ModelConfig):
  """W + V with the mask: from tap, lane heard and input to lane and channel."""
  heard, lane = np.indices((config.lanes, config.lanes))
  taps = len(params['distances'])
  position = np.arange(taps) - reach(config).near
  distance = np.abs(config.lanes * position[:, None, None] + heard - lane)
  gain = np.where(heard < lane, 1, 0) / np.maximum(distance, 1)
  apart = np.where(heard < lane, lane - heard - 1, 0)
  pair = np.where(heard < lane, lane * (lane - 1) // 2 + heard, 0)
  kernel = params['distances'][:, apart] + params['pairs'][:, pair]
  return (kernel * jnp.asarray(gain[..., None, None], kernel.dtype)).transpose(0, 1, 3, 2, 4)


def first_layer(params, bytes_NxBxSx2, config: ModelConfig):
  """x_0 of all lanes, NxSxBxC with N less `near` and `near_ahead`, from scaled bytes."""
  taps = _windows(hear(bytes_NxBxSx2), len(params['distances']))
  return _first(params, 'nbkzy,kzysc->nsbc', taps, config)


def first_layer_apart(params, bytes_NxSxBxSx2, config: ModelConfig):
  """`first_layer` of lanes at different positions: each has its own bytes."""
  taps = _windows(hear(bytes_NxSxBxSx2), len(params['distances']))
  return _first(params, 'nsbkzy,kzysc->nsbc', taps, config)


def _windows(x, taps: int):
  """x[n], x[n + 1], .. side by side, on a new axis before the last two."""
  n = len(x) - taps + 1
  return jnp.stack([x[k:k + n] for k in range(taps)], axis=-3)


def _first(params, equation: str, taps, config: ModelConfig):
  # Full precision on every backend: fewer bits than float32's would lose the fine byte.
  x = jnp.einsum(equation, taps, first_kernel(params, config), precision='highest')
  return x + params['embedding'][:, None]


def layer(params, x_NxSxBxC, past: int, ahead: int, compute_dtype: str):
  """One residual layer; its output is N less `past` and `ahead` positions long."""
  n = len(x_NxSxBxC) - past - ahead
  middle = x_NxSxBxC[past:past + n]
  taps = jnp.concatenate([x_NxSxBxC[:n], middle, x_NxSxBxC[past + ahead:]], axis=-1)
  return middle + jax.nn.relu(products.linear(params, taps, compute_dtype))


def features(params, bytes_NxBxSx2, config: ModelConfig):
  """Context of every lane at positions past .. N − ahead of a window, IxSxBxC."""
  x = first_layer(params, bytes_NxBxSx2, config)
  for i, (past, ahead) in enumerate(reach(config).dilations):
    x = layer(params['layers'][str(i)], x, past, ahead, config.compute_dtype)
  return x


def silence(params, bytes_2, config: ModelConfig):
  """Inputs 1xSx1xC of every layer after the first while all samples are silent.

  What the layers hold before an utterance begins.
  """
  taps = len(params['distances'])
  x = first_layer(params, jnp.broadcast_to(bytes_2, (taps, 1, config.lanes, 2)), config)
  inputs = []
  for i, (past, ahead) in enumerate(reach(config).dilations):
    inputs.append(x)
    x = layer(params['layers'][str(i)], jnp.repeat(x, past + ahead + 1, axis=0), past, ahead,
              config.compute_dtype)
  return inputs


def block_features(params, caches, bytes_NxSxBxSx2, config: ModelConfig):
  """Context of the next L positions of each lane from the samples that are new to it.

  Args:
    params: of the network.
    caches: for each layer after the first the last inputs that it will need
      again, past + ahead positions of `reach`.
    bytes_NxSxBxSx2: the first layer's window of each lane, near + near_ahead +
      L positions that end F after the lane's block.
    config: of the model.

  Returns:
    LxSxBxC and the next caches.
  """
  x, kept = first_layer_apart(params, bytes_NxSxBxSx2, config), []
  for i, (past, ahead) in enumerate(reach(config).dilations):
    x = jnp.concatenate([caches[i], x])
    kept.append(x[len(x) - past - ahead:])
    x = layer(params['layers'][str(i)], x, past, ahead, config.compute_dtype)
  return x, kept


def add_gate_inputs(params, x_IxSxBxH, context_IxSxBxC, nearest_IxSxBxK, config: ModelConfig):
  """The three arrays of gate inputs, with what context and nearest samples add to them."""
  kernels = jnp.split(params['gates']['kernel'], 3, axis=1)
  dtype = products.product_dtype(kernels[0], config.compute_dtype)
  weights = jnp.split(nearest_weights(params), 3, axis=1)
  return tuple(x + products.product(context_IxSxBxC, k.astype(dtype)) + nearest_IxSxBxK @ w
               for x, k, w in zip(x_IxSxBxH, kernels, weights, strict=True))
