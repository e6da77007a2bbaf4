"""Turns mel frames into gate inputs.

The paper conditions on linguistic features and does not say how they enter.
Ours: a small residual convolutional stack at frame rate, a linear map to gate
inputs, and linear interpolation of the gate inputs between frames, so that
the cost at sample rate is two multiplications a gate.

All convolutions are 'valid': a caller passes `frames(samples)` frames, and gets no
gate inputs for the outer `margin` on each side. Frames outside the utterance hold
the convention's floor, so that crops, blocks and whole utterances see the same.
"""

import math

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from wavernn_jax import audio, products
from wavernn_jax.config import MelConfig, ModelConfig


class Conditioning(nnx.Module):
  """Parameters of the stack, from M mel bands to G gate inputs or as many as `outputs`."""

  def __init__(self, config: ModelConfig, mel: MelConfig, rngs: nnx.Rngs, outputs: int = 0):
    widths = [mel.bands] + [config.channels] * config.layers
    self.layers = nnx.List([
        nnx.Linear(config.kernel * a, b, kernel_init=nnx.initializers.he_normal(), rngs=rngs)
        for a, b in zip(widths, widths[1:], strict=False)])
    self.gates = nnx.Linear(widths[-1], outputs or 3 * config.units, rngs=rngs)


def margin(config: ModelConfig) -> int:
  """Mel frames on each side that a gate input depends on through the stack."""
  return config.layers * (config.kernel - 1) // 2


def frames(samples: int, config: ModelConfig, mel: MelConfig) -> int:
  """Frames F that the gate inputs of `samples` samples from a frame boundary need.

  The first is frame −1 − margin relative to the one at the first sample.
  """
  return math.ceil(samples / mel.hop) + 2 + 2 * margin(config)


def normalize(mel_BxFxM, mel: MelConfig):
  """Maps [floor, 0] to [−2, 2], a range fit for a network, in any convention."""
  half = -audio.mel_floor(mel) / 2
  return (mel_BxFxM + half) * (2 / half)


def frame_gates(params, mel_BxFxM, config: ModelConfig, mel: MelConfig):
  """Gate inputs at frame rate, FxBxG with F less 2·margin frames."""
  x = normalize(mel_BxFxM, mel)
  for i in range(config.layers):
    n = x.shape[1] - config.kernel + 1
    taps = jnp.concatenate([x[:, k:k + n] for k in range(config.kernel)], axis=-1)
    y = jax.nn.relu(products.linear(params['layers'][str(i)], taps, config.compute_dtype))
    middle = (config.kernel - 1) // 2
    x = y if i == 0 else x[:, middle:middle + n] + y
  return products.linear(params['gates'], x.swapaxes(0, 1), config.compute_dtype)


def frame_position(sample, mel: MelConfig):
  """Frames, with a fraction, from frame −1 to a sample from a frame boundary."""
  return (sample - audio.frame_offset(mel)) / mel.hop + 1


def interpolation(samples: int, mel: MelConfig, first: int = 0, step: int = 1) -> np.ndarray:
  """Weights TxF of the frames −1, 0, .. for each sample from a frame boundary.

  Args:
    samples: end of the range of samples.
    mel: convention.
    first: its start: 0, or negative by up to half a hop.
    step: distance of the samples that get weights.
  """
  position = frame_position(np.arange(first, samples, step), mel)
  left = np.floor(position).astype(int)
  weights = np.zeros((len(position), math.ceil(samples / mel.hop) + 2))
  rows = np.arange(len(position))
  weights[rows, left] = 1 - (position - left)
  weights[rows, left + 1] = position - left
  return weights


def sample_gates(params, mel_BxFxM, samples: int, config: ModelConfig, mel: MelConfig,
                 first: int = 0, step: int = 1):
  """Gate inputs at the samples of `interpolation`, bias included: (x_u, x_r, x_e), each TxBxH."""
  gates_FxBxG = frame_gates(params, mel_BxFxM, config, mel)
  weights_TxF = jnp.asarray(interpolation(samples, mel, first, step), gates_FxBxG.dtype)
  return tuple(upsample(weights_TxF, g) for g in jnp.split(gates_FxBxG, 3, axis=-1))


@jax.custom_vjp
def upsample(weights_TxF, gates_FxBxH):
  """einsum('tf,fbh->tbh'), not differentiated by the weights.

  The backward spares the transposed copy that XLA makes.
  """
  return jnp.einsum('tf,fbh->tbh', weights_TxF, gates_FxBxH)


def _upsample_backward(weights_TxF, dx_TxBxH):
  return jnp.zeros_like(weights_TxF), jnp.einsum('ft,tbh->fbh', weights_TxF.T, dx_TxBxH)


upsample.defvjp(lambda w, g: (upsample(w, g), w), _upsample_backward)


@jax.custom_vjp
def add_inputs(x_TxBxH, inputs_TxBxK, weights_KxH):
  """x + inputs · weights for a few inputs K, in one pass; not differentiated by inputs."""
  for k in range(len(weights_KxH)):
    x_TxBxH = x_TxBxH + inputs_TxBxK[..., k, None] * weights_KxH[k]
  return x_TxBxH


def _add_inputs_backward(inputs_TxBxK, dx_TxBxH):
  K, H = inputs_TxBxK.shape[-1], dx_TxBxH.shape[-1]
  dweights = inputs_TxBxK.reshape(-1, K).T @ dx_TxBxH.reshape(-1, H)
  return dx_TxBxH, jnp.zeros_like(inputs_TxBxK), dweights


add_inputs.defvjp(lambda x, i, w: (add_inputs(x, i, w), i), _add_inputs_backward)
