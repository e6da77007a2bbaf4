"""The two persistent kernels behind one interface, with a model's weights.

  multiple             what the halves of the units and the projection are padded to
  dtype                of the products' inputs, for the check against the model
  kind                 of the weights: float32, bfloat16 or int8
  tolerance            nats by which a log-probability may differ from the model's
  fit(batch)           streams of one launch; `DoesNotFit` if there is no room
  weights(batch)       arrays that do not change from call to call
  call(batch, weights, …)
                       the kernel, inside `jax.jit`; the other arguments are those of
                       tpu.sample. Returns pcm, h, logits or None, and whether it failed
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from wavernn_jax.errors import InputError
from wavernn_jax.sampling.persistent import (
  cuda,
  driver as driver_lib,
  operands as operands_lib,
  tpu,
)

_MATRICES = ('recurrent', 'hidden', 'output')


class DoesNotFit(InputError):
  """The chip cannot hold the model."""


class Tpu:
  """Pallas, one core."""

  multiple = tpu.WIDTH

  def __init__(self, params, weights: str, hop: int, interpret: bool = False, taps: int = 0):
    """Args:
      params: of models/wavernn.py.
      weights: type of the matrices.
      hop: samples of a frame.
      interpret: run as JAX, on any backend.
      taps: of the model's prediction.
    """
    if weights == 'int8':
      raise InputError("--weights=int8: the kernel for TPUs has float32 and bfloat16; use "
                       '--weights=bfloat16 with --workdir, or --engine=scan.')
    self.dtype, self.kind = jnp.dtype(weights), weights
    self._hop, self._interpret = hop, interpret
    self.tolerance = 1e-3 if weights == 'float32' else 0.3  # activations are rounded too
    operands = operands_lib.build(params, self.multiple, taps)
    self._operands = dataclasses.replace(
        operands, **{name: getattr(operands, name).astype(self.dtype) for name in _MATRICES})

  def fit(self, batch: int) -> int:
    w = self._operands
    rest = self.dtype.itemsize, batch, self._hop, w.taps
    if not tpu.fits(w.half, w.projection, *rest):
      widest = max(h for h in range(0, w.half, self.multiple) if h == 0 or tpu.fits(
          h, h, *rest))
      raise DoesNotFit(
          f'--engine=pallas: {2 * w.half} units, projection {w.projection}, {batch} streams of '
          f'{self.dtype.name} are more than the memory of a TPU core holds; {2 * widest} units '
          f'with a projection of {widest} fit.')
    return batch

  def weights(self, batch: int):
    del batch
    return self._operands

  def call(self, batch, weights, *arguments, filters=None):
    del batch
    pcm, h, *logits = tpu.sample(weights, *arguments, filters=filters, interpret=self._interpret)
    return pcm, h, logits[0] if logits else None, jnp.asarray(False)


class Cuda:
  """CUDA C++, all multiprocessors of one GPU."""

  multiple = cuda.BLOCK
  tolerance = 0.01
  dtype = jnp.dtype(jnp.float32)  # activations stay so, whatever the weights

  def __init__(self, params, weights: str, masks=None, driver: driver_lib.Driver | None = None,
               compile_source=driver_lib.compile_source, choose=cuda.choose,
               platform: str = 'CUDA', taps: int = 0):
    """Args:
      params: of models/wavernn.py.
      weights: type of the matrices.
      masks: of pruning.py; None keeps all blocks.
      driver: the machine's by default.
      compile_source: as driver.compile_source.
      choose: as cuda.choose.
      platform: 'cpu' where the driver is an emulation.
      taps: of the model's prediction.

    Raises:
      CudaError: no driver, or a GPU that is too old.
    """
    self._driver = driver or driver_lib.Driver()
    self.chip = self._driver.chip(jax.local_devices()[0].local_hardware_id or 0)
    if self.chip.capability < driver_lib.OLDEST:
      raise driver_lib.CudaError(
          f'found a GPU of compute capability {self.chip.capability / 10}, expected '
          f'{driver_lib.OLDEST / 10} (Ampere) or more')
    self.kind = weights
    self._operands = operands_lib.build(params, self.multiple, taps)
    self._matrices = cuda.pack(self._operands, weights,
                               operands_lib.kept(params, masks, self.multiple, taps))
    self._compile, self._platform = compile_source, platform
    self._choose = functools.cache(lambda batch: choose(
        self._operands, self._matrices, self.chip, batch))
    self._kernel = functools.cache(self._compiled)

  def fit(self, batch: int) -> int:
    return self.plan(batch).batch

  def plan(self, batch: int) -> cuda.Plan:
    found = self._choose(batch)
    if found:
      return found
    raise DoesNotFit(
        f'--engine=pallas: {int(self._matrices.counts.sum()) * cuda.BLOCK:,} weights of '
        f'{2 * self._operands.half} units are more than {self.chip.processors} multiprocessors '
        f'of {self.chip.shared_bytes // 1024} KiB shared memory hold; about '
        f'{cuda.room(self._operands, self._matrices, self.chip):,} do fit.')

  def weights(self, batch: int):
    return cuda.constants(self._operands, self._matrices, self.plan(batch))

  def call(self, batch, weights, *arguments, filters=None):
    plan = self.plan(batch)
    return cuda.sample(self._kernel(plan), plan, weights, *arguments, filters=filters,
                       platform=self._platform)

  def _compiled(self, plan: cuda.Plan) -> int:
    image = self._compile(plan.macros, self.chip.capability)
    return cuda.add_kernel(plan, image, self._driver)
