"""§3: sampling on CPU cores by compiled block-sparse products (numba).

`CpuEngine` is the engine; the modules below it do not run JAX:

  engine.py       an export as an engine (sampling/engine.py)
  loop.py         the loop over samples, and teacher forcing by the same step
  hear.py         what a step hears; predictions of samples
  inputs.py       what the gates are added for what is heard
  step.py         one sample: gates, output layers, draws
  int16.py        sums of products of int16 vectors
  kernels.py      products with packed matrices
  layout.py       packed matrices in the order in which a step reads them
  simd.py         vectors of 16 numbers in numba functions
  cache.py        compiled code on disk
"""

from wavernn_jax.sampling.cpu.engine import CpuEngine

__all__ = ['CpuEngine']
