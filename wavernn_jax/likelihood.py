"""Nats per sample of every output layer; the only losses.

An output layer is softmax(O' relu(O y)), §2: a dict with `hidden` and `output`
kernels and biases, over the V values of a byte (or of a smaller alphabet).
"""

import functools

import jax
from jax import lax
import jax.numpy as jnp

from wavernn_jax import products

BYTE_VALUES = 256  # V
_BLOCK_ROWS = 1024  # of logits held at once by `mean_nats`: 1 MB, a level-2 cache


def layer_logits(layer, y, compute_dtype: str = 'float32', prior=None,
                 activations: str = 'float32'):
  """O' relu(O y): logits [..., V] of y [..., H/2].

  Args:
    layer: the output layer.
    y: its inputs.
    compute_dtype: of the products.
    prior: None, or (slope [...], ramp [V]): slope · ramp is added to the logits.
    activations: whether the products see rounded inputs (`products.rounded`).
  """
  y = products.rounded(y, activations)
  relu = _rounded(jax.nn.relu(products.linear(layer['hidden'], y, compute_dtype)), activations)
  return _with_prior(products.linear(layer['output'], relu, compute_dtype), prior)


def _rounded(relu, activations: str):
  return products.rounded(relu, activations, relu.max(axis=-1, keepdims=True))


def _with_prior(logits, prior):
  return logits if prior is None else logits + prior[0][..., None] * prior[1]


def categorical_nats(logits, targets):
  """Negative log-likelihood in nats of integer targets in [0, V), of their shape."""
  return jax.nn.logsumexp(logits, axis=-1) - jnp.where(
      _one_hot(logits, targets), logits, 0).sum(axis=-1)


def _one_hot(logits, targets):
  # A comparison instead of a gather: it fuses, and its gradient is no scatter.
  return jnp.arange(logits.shape[-1], dtype=targets.dtype) == targets[..., None]


def layer_nats(layer, y, targets, compute_dtype: str = 'float32', prior=None,
               activations: str = 'float32'):
  """Nats of each target under the layer (and `prior`), of the targets' shape.

  Rows are processed in blocks, so that the logits of a long utterance are never all
  in memory together.
  """
  rows, targets_N = y.reshape(-1, y.shape[-1]), targets.reshape(-1)
  slope, ramp = _prior_rows(prior)

  def block(at):
    y, targets, slope = at
    prior = None if slope is None else (slope, ramp)
    return categorical_nats(layer_logits(layer, y, compute_dtype, prior, activations),
                            targets)

  nats = lax.map(block, (_blocks(rows), _blocks(targets_N), slope))
  return nats.reshape(-1)[:len(rows)].reshape(targets.shape)


def _prior_rows(prior):
  """The slopes of a prior in blocks of rows, and its ramp."""
  return (None, None) if prior is None else (_blocks(prior[0].reshape(-1)), prior[1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 6))
def mean_nats(layer, y, targets, weight, compute_dtype: str = 'float32', prior=None,
              activations: str = 'float32'):
  """Weighted mean of `layer_nats`: sum(weight · nats) / sum(weight).

  The gradient is computed along with the value, block by block: logits, softmax and
  their gradients stay in the cache, and nothing of size T·B·V is ever written.

  Args:
    layer: the output layer.
    y: [..., H/2].
    targets: integers [...].
    weight: float [...], 0 where a sample does not count; not differentiated.
    compute_dtype: of the products.
    prior: as for `layer_logits`; its slope is differentiated.
    activations: as for `layer_logits`.
  """
  nats = layer_nats(layer, y, targets, compute_dtype, prior, activations)
  return (nats * weight).sum() / jnp.maximum(weight.sum(), 1e-6)


def _mean_nats_forward(layer, y, targets, weight, compute_dtype, prior, activations):
  weight = weight / jnp.maximum(weight.sum(), 1e-6)
  dtype = products.product_dtype(layer['output']['kernel'], compute_dtype)
  kernel1, kernel2 = (layer[k]['kernel'].astype(dtype) for k in ('hidden', 'output'))
  transposed1, transposed2 = lax.optimization_barrier((kernel1.T, kernel2.T))

  slope, ramp = _prior_rows(prior)

  def block(sums, at):
    y, targets, weight, slope = at
    y = products.rounded(y, activations)
    plain = jax.nn.relu(products.product(y, kernel1) + layer['hidden']['bias'])
    relu = _rounded(plain, activations)
    logits = products.product(relu, kernel2) + layer['output']['bias']
    if slope is not None:
      logits = logits + slope[:, None] * ramp
    exp = jnp.exp(logits - logits.max(axis=-1, keepdims=True))
    total = exp.sum(axis=-1, keepdims=True)
    chosen = _one_hot(logits, targets)
    nats = jnp.log(total[:, 0]) - jnp.where(
        chosen, logits - logits.max(axis=-1, keepdims=True), 0).sum(axis=-1)
    dlogits = weight[:, None] * (exp / total - chosen)
    drelu = jnp.where(plain > 0, products.product(dlogits, transposed2), 0)
    new = {'value': (nats * weight).sum(),
           'hidden': {'kernel': products.product(y.T, drelu.astype(dtype)), 'bias': drelu.sum(0)},
           'output': {'kernel': products.product(relu.T, dlogits.astype(dtype)),
                      'bias': dlogits.sum(0)}}
    dslope = None if slope is None else (dlogits * ramp).sum(axis=-1)
    return jax.tree.map(jnp.add, sums, new), (products.product(drelu, transposed1), dslope)

  zeros = jax.tree.map(jnp.zeros_like, {'value': weight.sum(), **layer})
  rows = y.reshape(-1, y.shape[-1])
  sums, (dy, dslope) = lax.scan(block, zeros, (
      _blocks(rows), _blocks(targets.reshape(-1)), _blocks(weight.reshape(-1)), slope))
  value = sums.pop('value')
  dy = dy.reshape(-1, y.shape[-1])[:len(rows)].reshape(y.shape)
  if prior is not None:
    dslope = dslope.reshape(-1)[:len(rows)].reshape(prior[0].shape)
  return value, (sums, dy, None if prior is None else (dslope, jnp.zeros_like(ramp)))


def _mean_nats_backward(compute_dtype, activations, saved, cotangent):
  del compute_dtype, activations
  dlayer, dy, dprior = jax.tree.map(lambda g: g * cotangent, saved)
  return dlayer, dy, None, None, dprior


mean_nats.defvjp(_mean_nats_forward, _mean_nats_backward)


def _blocks(rows):
  """Rows [N, ...] -> [blocks, block, ...], zero rows appended where needed."""
  block = min(len(rows), _BLOCK_ROWS)
  padding = [(0, -len(rows) % block)] + [(0, 0)] * (rows.ndim - 1)
  return jnp.pad(rows, padding).reshape(-1, block, *rows.shape[1:])
