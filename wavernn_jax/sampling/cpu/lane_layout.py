"""A subscale model laid out for `lane_loop` (§4): as layout.py, and the context's matrices.

The hidden layer of the coarse byte reads a half of the state and the context. The
two have scales of their own as integers, so that it is two matrices.
"""

import dataclasses
import typing

import numpy as np

from wavernn_jax.sampling import blocksparse
from wavernn_jax.sampling.cpu import layout


class LaneNetwork(typing.NamedTuple):
  """Everything constant that the compiled sampler of lanes reads."""
  channels: int  # C of the context
  recurrent: typing.Any
  gates: typing.Any  # from the context, in the order of `recurrent`
  coarse: layout.Head
  fine: layout.Head
  coarse_context: typing.Any  # from the context to the hidden layer of the coarse byte
  inputs: np.ndarray  # float32 [H, 3, 3 + 2K]: w_c, w_f, those of the K nearest samples, w_cf
  limit: float
  context_limit: float  # greatest int16 for the greatest input of a context


def build(weights):
  """Lay out `Weights` with a context for the sampler.

  Raises:
    ValueError: units not a multiple of 32, or matrices that do not fit.
  """
  layout.check_sizes(weights)
  units = weights.recurrent[0].shape[0]
  inputs = np.concatenate([weights.input, weights.nearest, np.zeros((1, 3, units))])
  inputs[-1, :, units // 2:] = weights.current
  gates = [blocksparse.part(weights.context, slice(n, n + units))
           for n in range(0, 3 * units, units)]
  coarse, fine = weights.project
  of_state = dataclasses.replace(
      weights, project=(blocksparse.part(coarse, inputs=slice(units // 2)), fine))
  of_context = blocksparse.part(coarse, inputs=slice(units // 2, None))
  return layout.together(LaneNetwork(
      weights.context.shape[1],
      layout.stream(*weights.recurrent, lanes=True), layout.stream(*gates, lanes=True),
      layout.head(of_state, 0, lanes=True), layout.head(of_state, 1, lanes=True),
      layout.stream(of_context, lanes=True),
      layout.aligned_copy(inputs.transpose(2, 1, 0), np.float32),
      layout.limit(*weights.recurrent, *of_state.project, lanes=True),
      min(layout.limit(*gates, lanes=True), layout.limit(of_context, lanes=True))))
