"""§3: sampling on CPU cores by compiled block-sparse products (numba).

`open_sampler` gives the engine; the modules below it know nothing of JAX:

  engine.py       an export as a sampler of mel frames, with the interface of sampling/scan.py
  loop.py         the loop over samples, and teacher forcing by the same step
  step.py         one sample: gates, output layers, draws
  kernels.py      products with packed matrices
  layout.py       packed matrices in the order in which a step reads them
  simd.py         vectors of 16 numbers in numba functions

and for models of several lanes (§4) lane_engine.py, lane_loop.py, lane_step.py,
lane_layout.py and lane_kernels.py, in which each weight that is read serves all lanes.
"""

from wavernn_jax.sampling.cpu.engine import Sampler, fits
from wavernn_jax.sampling.cpu.lane_engine import LaneSampler
from wavernn_jax.sampling.export import Export

__all__ = ['LaneSampler', 'Sampler', 'fits', 'open_sampler']


def open_sampler(export: Export, *args, **options) -> Sampler:
  """The sampler of an export; the rest as for `Sampler`."""
  kind = LaneSampler if export.config.model.lanes > 1 else Sampler
  return kind(export, *args, **options)
