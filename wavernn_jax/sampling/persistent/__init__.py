"""§2.1: the whole utterance in one kernel, weights loaded once and kept on chip.

`start` gives the engine; TPUs run Pallas, NVIDIA GPUs CUDA C++:

  engine.py      the kernels as an engine (sampling/engine.py);  lanes.py  of subscale models
  checks.py      a kernel against the model before it is used
  chips.py       both kernels behind one interface
  operands.py    weights and inputs, padded to the tiles of a chip
  tpu.py         Pallas: weights in VMEM, one loop over the samples of a frame
  tpu_hearing.py what its steps hear: bytes, or a prediction and its residuals
  cuda.py        plans for a GPU, weights packed for persistent.cu; why not Pallas there
  persistent.cu  the kernel for GPUs, dense and block-sparse;  hearing.cuh  what it hears
  driver.py      its compilation and launch;  ffi.py  its custom call

A kernel draws independent streams, each with its own gate inputs: an utterance, or a lane of
a subscale model. The weights of a spectral prediction come from XLA, one row for each frame;
the kernel sums the products. Subscale models with such a prediction have no kernel yet. The
kernels have not run on a GPU or a TPU: `start` compares one with the model before it is used.
"""

from wavernn_jax.sampling.persistent.engine import UNUSABLE, Sampler, start

__all__ = ['Sampler', 'UNUSABLE', 'start']
