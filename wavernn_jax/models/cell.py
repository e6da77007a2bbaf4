"""§2, the recurrence: one WaveRNN step, and its scan with a hand-written backward.

    u_t = σ(R_u h_{t−1} + x_u)
    r_t = σ(R_r h_{t−1} + x_r)
    e_t = tanh(r_t ∘ (R_e h_{t−1}) + x_e)
    h_t = u_t ∘ h_{t−1} + (1 − u_t) ∘ e_t

x_u, x_r, x_e are the gate inputs: conditioning, bias and the bytes, formed for
all time steps before the scan. They are three arrays and not one of G = 3H:
slicing and joining such arrays costs as much as the recurrence itself.

GRUs of other programs have a bias b beside R_e, inside the reset gate: `reset_bias`
makes of it what is added to R h.
"""

import functools

import jax
from jax import lax
import jax.numpy as jnp

from wavernn_jax import products


def gates(g_BxG, x):
  """Returns (u, r, e, m), each BxH, with m = R_e h, the part that r gates.

  Works alike on all H units and on the coarse or the fine half of them.

  Args:
    g_BxG: R h, the three gates side by side.
    x: (x_u, x_r, x_e), each BxH.
  """
  g_u, g_r, m = jnp.split(g_BxG, 3, axis=-1)
  x_u, x_r, x_e = x
  u = jax.nn.sigmoid(g_u + x_u)
  r = jax.nn.sigmoid(g_r + x_r)
  return u, r, jnp.tanh(r * m + x_e), m


def blend(h, u, e):
  """h_t from h_{t−1}, update gate and candidate."""
  return u * h + (1 - u) * e


def part(g_BxG, h_BxH, x, i: int, parts: int):
  """The i-th of equal parts of h_t: its inputs may depend on what those before it drew.

  Args:
    g_BxG: R h_{t−1}, of all units.
    h_BxH: h_{t−1}.
    x: gate inputs (x_u, x_r, x_e) of the part, each BxH/parts.
    i, parts: which part.
  """
  rows = len(h_BxH)
  own = g_BxG.reshape(rows, 3, parts, -1)[:, :, i].reshape(rows, -1)
  u, _, e, _ = gates(own, x)
  return blend(jnp.split(h_BxH, parts, axis=1)[i], u, e)


def reset_bias(b_H):
  """The bias, G, of R h that adds b to R_e h alone."""
  return jnp.pad(b_H, (2 * len(b_H), 0))


def step(R_HxG, h_BxH, x, bias_G=0, activations: str = 'float32'):
  """One step with all gate inputs known. Returns h_t, BxH."""
  u, _, e, _ = gates(_product(h_BxH, R_HxG, activations) + bias_G, x)
  return blend(h_BxH, u, e)


def _product(h, R_HxG, activations: str):
  """R h, of h as config.model.activations say."""
  return products.product(products.rounded(h, activations), R_HxG)


def autodiff_scan(R_HxG, x_TxBxH, h_BxH, bias_G=0, activations: str = 'float32'):
  """The states h_1..h_T, TxBxH: `step` under `lax.scan`, differentiated by JAX.

  The plain path that `scan` is tested and measured against.
  """
  def body(h, x):
    h = step(R_HxG, h, x, bias_G, activations)
    return h, h
  return lax.scan(body, h_BxH, x_TxBxH)[1]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def scan(R_HxG, x_TxBxH, h_BxH, activations: str = 'float32'):
  """`autodiff_scan` with a backward that forms the gradient of R in one product.

  Autodiff accumulates an HxG outer product at every step; here the backward
  scan only carries the gradient of h, and a matrix product over all T·B rows
  follows it.

  Args:
    R_HxG: recurrent weights [R_u, R_r, R_e]; their type is that of the products.
    x_TxBxH: gate inputs (x_u, x_r, x_e), float32 (float64 with float64 weights).
    h_BxH: initial state, of x's type.
    activations: whether R sees h rounded (`products.rounded`).

  Returns:
    h_TxBxH, the states after each step.
  """
  return _scan_forward(R_HxG, x_TxBxH, h_BxH, activations)[0]


def _scan_forward(R_HxG, x_TxBxH, h_BxH, activations):
  def body(h, x):
    u, r, e, m = gates(_product(h, R_HxG, activations), x)
    # Without the barrier XLA's CPU backend fuses the gates into each of their
    # users and so computes every sigmoid and tanh several times.
    u, r, e = lax.optimization_barrier((u, r, e))
    h_new = blend(h, u, e)
    return h_new, (h_new, h, u, r, e, m)
  _, (h_TxBxH, *saved) = lax.scan(body, h_BxH, x_TxBxH)
  return h_TxBxH, (R_HxG, *saved)


def _scan_backward(activations, saved, dy_TxBxH):
  R_HxG, h_TxBxH, *gates_TxBxH = saved
  # Transposed once here: inside the loop it would be transposed at every step.
  R_GxH = lax.optimization_barrier(R_HxG.T)

  def body(dh, at_t):
    dy, h, u, r, e, m = at_t
    dh = dh + dy
    de = dh * (1 - u) * (1 - e * e)
    du = dh * (h - e) * u * (1 - u)
    dr = de * m * r * (1 - r)
    dm = de * r
    dg = jnp.concatenate([du, dr, dm], axis=-1)
    return dh * u + products.product(dg, R_GxH), (du, dr, de, dm)

  dh_BxH, (du, dr, de, dm) = lax.scan(
      body, jnp.zeros_like(h_TxBxH[0]), (dy_TxBxH, h_TxBxH, *gates_TxBxH), reverse=True)
  h_HxN = products.rounded(h_TxBxH, activations).reshape(-1, h_TxBxH.shape[-1]).T
  dR_HxG = jnp.concatenate(
      [products.product(h_HxN, d.reshape(-1, d.shape[-1]).astype(R_HxG.dtype))
       for d in (du, dr, dm)], axis=1)
  return dR_HxG.astype(R_HxG.dtype), (du, dr, de), dh_BxH


scan.defvjp(_scan_forward, _scan_backward)
