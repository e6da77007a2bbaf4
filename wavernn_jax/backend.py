"""What differs between backends when a function is compiled."""

import jax


def jit(function, **options):
  """`jax.jit` with the compiler options that suit this project's small products.

  On CPUs XLA's default kernels pack the weights anew at every product, which
  for the matrix-vector products of sampling costs more than the product; those
  of oneDNN do not, and are also faster in the training step (measured by
  experiments/benchmarks).
  """
  if jax.default_backend() == 'cpu':
    options['compiler_options'] = {'xla_cpu_use_onednn': True}
  return jax.jit(function, **options)
