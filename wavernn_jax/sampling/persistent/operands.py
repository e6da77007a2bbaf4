"""What both persistent kernels read, in shapes that fill their tiles.

The coarse and the fine units, and the projection, are padded to a multiple of
the chip's tile with weights of zero. Padded units start at zero and stay
there: u = 1/2 and e = 0, so h_t = h_{t−1} / 2 = 0.
"""

import dataclasses
import typing

import jax
import jax.numpy as jnp
import numpy as np

from wavernn_jax import draw, pruning
from wavernn_jax.config import MelConfig
from wavernn_jax.models import conditioning, hearing, wavernn


def round_up(n: int, multiple: int) -> int:
  return -(-n // multiple) * multiple


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Operands:
  """Weights of a model, inputs first, in float32, gates in the order u, r, e.

  The units of each half, and P, are padded; the coarse half comes first.

  Attributes:
    recurrent: [H, 3H].
    previous: [2 or more, 3H], weights of what is heard, the gains multiplied in.
    current: [3H/2], weights on the fine half of what is heard of the coarse byte, likewise.
    hidden: [2, H/2, P], O_1 and O_3.
    hidden_bias: [2, P].
    output: [2, P, V], O_2 and O_4.
    output_bias: [2, V].
    taps: of the prediction, 0 without one.
  """
  recurrent: jax.Array
  previous: jax.Array
  current: jax.Array
  hidden: jax.Array
  hidden_bias: jax.Array
  output: jax.Array
  output_bias: jax.Array
  taps: int = dataclasses.field(default=0, metadata={'static': True})

  @property
  def half(self) -> int:
    return self.hidden.shape[1]

  @property
  def projection(self) -> int:
    return self.hidden.shape[2]


class Filters(typing.NamedTuple):
  """What a kernel is given of a prediction (models/prediction.py), beside the weights.

  Of F frames −1, 0, .., B streams, D taps and R residuals that are heard:

  taps: int32 [F, B, D];  shift: int32 [F, B].
  scale, level: float32 [F, B].
  slope: float32 [F, B], of the priors.
  nearest: int32 [hop] in 0..2: sample n of frame f has the filter f + nearest.
  pcm: int32 [B, D], the last samples.
  past: float32 [B, R], the last residuals over σ, the latest first.
  """
  taps: jax.Array
  shift: jax.Array
  scale: jax.Array
  level: jax.Array
  slope: jax.Array
  nearest: np.ndarray
  pcm: jax.Array
  past: jax.Array


def filters(params, state, mel_BxFxM, model) -> Filters | None:
  """Those of a block of a plain model, None if it has no prediction."""
  if model.config.prediction == 'none':
    return None
  found, nearest = model.hearing.filters(mel_BxFxM, model.mel.hop)
  pcm_BxD, past_BxR = model.hearing.start(state['pcm'], found)
  slope, _ = hearing.priors(params['prior'][0], found.scale, 0)['coarse']
  return Filters(*found, slope, nearest.astype(np.int32), pcm_BxD.astype(jnp.int32), past_BxR)


def taps(model) -> int:
  """Of the prediction of a model, 0 without one."""
  return 0 if model.config.prediction == 'none' else model.config.taps


def build(params, multiple: int, taps: int = 0) -> Operands:
  """Operands of a model's parameters, as numpy arrays.

  Args:
    params: of models/wavernn.py or subscale.py.
    multiple: that the units of a half, and P, are padded to.
    taps: of its prediction.
  """
  params = {name: jax.tree.map(lambda a: np.asarray(a, np.float32), params[name])
            for name in ('recurrent', 'previous', 'coarse', 'outputs')}
  layers = [params['outputs'][byte] for byte in wavernn.BYTES]
  half, projection = layers[1]['hidden']['kernel'].shape
  to_P = round_up(projection, multiple) - projection

  def outputs(part, name, rows, columns):
    count = half if (part, name) == ('hidden', 'kernel') else None  # no rows of a context
    stacked = np.stack([layer[part][name][:count] for layer in layers])
    widths = [(0, rows)] * (stacked.ndim == 3) + [(0, columns)]
    return np.pad(stacked, [(0, 0), *widths])

  to_half = round_up(half, multiple) - half
  gains = np.ones(len(params['previous']) + 1) if taps else hearing.Bytes.gains
  gates = np.concatenate([params['recurrent'][gate] for gate in 'ure'], axis=1)
  return Operands(
      recurrent=pad_halves(pad_halves(gates, multiple, 3).T, multiple, 1).T,
      previous=pad_halves(params['previous'] * gains[:-1, None], multiple, 3),
      current=np.pad(params['coarse'] * gains[-1], [(0, 0), (0, to_half)]).ravel(),
      hidden=outputs('hidden', 'kernel', to_half, to_P),
      hidden_bias=outputs('hidden', 'bias', 0, to_P),
      output=outputs('output', 'kernel', to_P, 0),
      output_bias=outputs('output', 'bias', 0, 0),
      taps=taps)


def kept(params, masks, multiple: int, taps: int = 0) -> Operands | None:
  """`build` of ones in the blocks that masks keep, and zeros; None if nothing is pruned."""
  if not jax.tree.leaves(masks):
    return None
  return build(pruning.apply_masks(jax.tree.map(np.ones_like, params), masks), multiple, taps)


def pad_halves(x, multiple: int, gates: int):
  """[..., gates · H] with each half of H padded to a multiple, by zeros."""
  half = x.shape[-1] // (2 * gates)
  parts = x.reshape(*x.shape[:-1], 2 * gates, half)
  pad = jnp.pad if isinstance(x, jax.Array) else np.pad
  widths = [(0, 0)] * (parts.ndim - 1) + [(0, round_up(half, multiple) - half)]
  return pad(parts, widths).reshape(*x.shape[:-1], -1)


def crop_halves(x, half: int):
  """Inverse of `pad_halves` for [..., H] of halves of `half`."""
  parts = x.reshape(*x.shape[:-1], 2, -1)[..., :half]
  return parts.reshape(*x.shape[:-1], 2 * half)


def frame_positions(mel: MelConfig) -> tuple[np.ndarray, np.ndarray]:
  """How the gate inputs of a sample are made of two of three frames.

  Returns:
    left int32 [hop] in {0, 1}: sample n of frame f lies between the frames
    f + left and f + left + 1 of `inputs`; weights float32 [hop, 2] of the two.
  """
  weights_hopx3 = conditioning.interpolation(mel.hop, mel)
  left = np.argmax(weights_hopx3 != 0, axis=1).astype(np.int32)
  pairs = np.stack([left, left + 1], axis=1)
  return left, np.take_along_axis(weights_hopx3, pairs, axis=1).astype(np.float32)


def inputs(params, state, mel_BxFxM, keys_Bx2, frames: int, model, multiple: int):
  """What changes from block to block, before it is laid out for a kernel.

  Returns:
    gates [frames + 2, B, 3H] at frame rate, the first that of frame −1; uniform
    numbers [T, 2, B]; the state's h, BxH; all padded as `Operands`.
  """
  gates = conditioning.frame_gates(params, mel_BxFxM, model.config, model.mel)
  uniform = draw.uniforms(keys_Bx2, state['index'], frames * model.mel.hop)
  return (pad_halves(gates, multiple, 3), uniform,
          pad_halves(jnp.asarray(state['h']), multiple, 1))
