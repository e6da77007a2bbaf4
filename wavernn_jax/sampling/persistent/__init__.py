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

Lanes are independent streams with their own gate inputs: utterances, or those of a
subscale model. Of a spectral prediction the weights come from XLA, a row for each frame, and
the sums are made in the kernel; subscale models with one have no kernel yet. Not yet run on
a GPU or a TPU: `start` compares a kernel with the model before it is used.
"""

from wavernn_jax.sampling.persistent.engine import UNUSABLE, Sampler, start

__all__ = ['Sampler', 'UNUSABLE', 'start']
