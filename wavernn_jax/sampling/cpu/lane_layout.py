"""A subscale model laid out for `lane_loop` (§4): as layout.py, and the context's matrices.

The hidden layers read a half of the state and the context. The two have scales
of their own as integers, so that each hidden layer is two matrices.
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
  coarse_context: typing.Any  # from the context to the hidden layers
  fine_context: typing.Any
  inputs: np.ndarray  # float32 [H, 3, 3]: w_c, w_f and w_cf (0 in the coarse half) of a gate
  limit: float
  context_limit: float  # greatest int16 for the greatest input of a context


def build(weights):
  """Lay out `Weights` with a context for the sampler.

  Raises:
    ValueError: units not a multiple of 32, or matrices that do not fit.
  """
  layout.check_sizes(weights)
  units = weights.recurrent[0].shape[0]
  inputs = np.zeros((units, 3, 3), np.float32)
  inputs[..., :2] = weights.input.transpose(2, 1, 0)
  inputs[units // 2:, :, 2] = weights.current.T
  gates = [blocksparse.part(weights.context, slice(n, n + units))
           for n in range(0, 3 * units, units)]
  projects = [[blocksparse.part(m, inputs=part) for m in weights.project]
              for part in (slice(units // 2), slice(units // 2, None))]
  of_state = dataclasses.replace(weights, project=tuple(projects[0]))
  return layout.together(LaneNetwork(
      weights.context.shape[1],
      layout.stream(*weights.recurrent, lanes=True), layout.stream(*gates, lanes=True),
      layout.head(of_state, 0, lanes=True), layout.head(of_state, 1, lanes=True),
      *(layout.stream(m, lanes=True) for m in projects[1]), layout.aligned_copy(inputs),
      layout.limit(*weights.recurrent, *projects[0], lanes=True),
      min(layout.limit(*gates, lanes=True), layout.limit(*projects[1], lanes=True))))
