"""A persistent kernel against the model, on the device, before it is used."""

import jax
import jax.numpy as jnp
import numpy as np

from wavernn_jax import audio, draw, likelihood
from wavernn_jax.errors import InputError
from wavernn_jax.models import cell, prediction, wavernn
from wavernn_jax.sampling.persistent import cuda

_AGREEING = 0.99  # least share of draws that must equal those of draw.categorical
# Nats of what is never drawn: a prior's logits of −100,000 are rounded by more than a tolerance.
_NEVER = -60.0


class CheckFailed(RuntimeError):
  """The kernel does not compute what the model does."""


def compare(found_TxBx2xV, expected_TxBx2xV, pcm_TxB, uniform_Tx2xB, temperatures,
            tolerance: float, predicted_TxB=0) -> dict[str, float]:
  """Log-probabilities of a kernel with the model's, and what it drew with what they say.

  Args:
    found_TxBx2xV, expected_TxBx2xV: logits of the kernel and of the model.
    pcm_TxB: what the kernel drew with these numbers at these temperatures.
    uniform_Tx2xB, temperatures: of the draws.
    tolerance: nats by which a log-probability may differ.
    predicted_TxB: of each sample, where the logits are those of residuals.

  Returns:
    nats, the greatest difference of a log-probability; draws, the share that
    equals those of draw.categorical.

  Raises:
    CheckFailed: if they disagree.
  """
  found, expected = (jnp.maximum(jax.nn.log_softmax(logits), _NEVER)
                     for logits in (found_TxBx2xV, expected_TxBx2xV))
  error = float(jnp.abs(found - expected).max())
  if not error <= tolerance:
    raise CheckFailed('the persistent kernel is not used: its log-probabilities differ from '
                      f"the model's by {error:.3g} nats, expected at most {tolerance}.")
  drawn_TxB = prediction.decode(
      _draws(found_TxBx2xV, uniform_Tx2xB, temperatures), predicted_TxB)
  agreeing = float((drawn_TxB == pcm_TxB).mean())
  if agreeing < _AGREEING:
    raise CheckFailed(f'the persistent kernel is not used: only {agreeing:.1%} of its draws '
                      'follow from its log-probabilities.')
  return {'nats': error, 'draws': agreeing}


def _draws(logits_TxBx2xV, uniform_Tx2xB, temperatures):
  """The int16 samples, or residuals, TxB that draw.categorical draws."""
  samples, batch = logits_TxBx2xV.shape[:2]
  coarse, fine = (draw.categorical(
      logits_TxBx2xV[:, :, i].reshape(samples * batch, -1), uniform_Tx2xB[:, i].reshape(-1),
      temperatures[i]).reshape(samples, batch) for i in (0, 1))
  return audio.join_bytes(coarse, fine)


def forced_logits(rnn: wavernn.WaveRNN, params, h_BxH, x_TxBxH, dtype, context_TxBxC=None,
                  priors=wavernn.NO_PRIORS):
  """Logits TxBx2xV of the model, with products of inputs of a type.

  Args:
    rnn: the model.
    params: its parameters.
    h_BxH: the state before.
    x_TxBxH: gate inputs, those of what is heard included.
    dtype: of the products.
    context_TxBxC: further inputs of the coarse output layer.
    priors: of `rnn.priors`.
  """
  h_TxBxH = cell.scan(rnn.recurrent(params).astype(dtype), x_TxBxH, h_BxH)
  return jnp.stack([
      likelihood.layer_logits(params['outputs'][byte], y, jnp.dtype(dtype).name, priors[byte])
      for byte, y in zip(wavernn.BYTES, wavernn.output_inputs(h_TxBxH, context_TxBxC),
                         strict=True)], axis=2)


def rounded(params, weights: str):
  """Parameters with the packed matrices as a kernel with such weights multiplies them.

  Raises:
    InputError: for int8 and units whose halves are no multiple of a block.
  """
  half = len(params['outputs']['fine']['hidden']['kernel'])
  if weights == 'int8' and half % cuda.BLOCK:
    raise InputError(f'--weights=int8: found {2 * half} units, expected a multiple of '
                     f'{2 * cuda.BLOCK}; use --weights=bfloat16.')
  def kernels(tree):
    return {name: kernels(leaf) if isinstance(leaf, dict)
            else leaf if name == 'bias' else cuda.rounded(leaf, weights)
            for name, leaf in tree.items()}
  found = params | {name: kernels(params[name]) for name in ('recurrent', 'outputs')}
  # The rows of a context are multiplied outside the kernel.
  hidden = params['outputs']['coarse']['hidden']['kernel']
  found['outputs']['coarse']['hidden']['kernel'] = np.concatenate(
      [cuda.rounded(hidden[:half], weights), np.asarray(hidden[half:])])
  return found
