"""Training speed: the full step, its parts, the recurrence against autodiff, memory.

    python -m experiments.benchmarks.training
    python -m experiments.benchmarks.training --units=896 --projection=448 --repeats=3 \
        --norecurrence --noparts

Batches are crops of synthetic noise read by the real loader. The last line is
one JSON object: `samples_per_second` of the full step, `backward_speedup` =
time of plain autodiff over time of the hand-written backward, `prediction_ratio` = time of
the step with `prediction: spectral` over that with `none`, `parts_ms`, `loader_share` and
`peak_memory_gib`.
"""

import functools
import tempfile
import time

from absl import flags
import jax
import jax.numpy as jnp
import numpy as np

from experiments import cli
from experiments.benchmarks import measure, train_step
from wavernn_jax import backend, config as config_lib, models, rules
from wavernn_jax.models import cell
from wavernn_jax.training import step as step_lib

_UNITS = flags.DEFINE_integer('units', 128, 'Hidden units of the full step, H.')
_PROJECTION = flags.DEFINE_integer('projection', 128, 'Width of its output layers, P.')
_DTYPE = flags.DEFINE_string('compute_dtype', 'float32', 'Number type of matrix products.')
_BATCH = flags.DEFINE_integer('batch', 32, 'Crops in a batch.')
_CROP = flags.DEFINE_integer('crop', 960, 'Samples of a crop.')
_REPEATS = flags.DEFINE_integer('repeats', 15, 'Timed calls of each function.')
_RECURRENCE = flags.DEFINE_bool('recurrence', True, 'Time the recurrence at 896 units.')
_PREDICTION = flags.DEFINE_bool('prediction', True, 'Time the step with a prediction and without.')
_PARTS = flags.DEFINE_bool('parts', True, 'Time the parts of the full step.')


def full_step(config) -> dict:
  """Samples a second of the train step with its loader, and the loader's share."""
  with tempfile.TemporaryDirectory() as folder:
    model, batches, step, state = _prepared(config, folder)
    state, _ = step(state, next(batches))
    times, loading = [], []
    for _ in range(_REPEATS.value):
      start = time.perf_counter()
      batch = next(batches)
      loading.append(time.perf_counter() - start)
      state, _ = step(state, batch)
      jax.block_until_ready(state)
      times.append(time.perf_counter() - start)
    seconds = float(np.median(times))
    samples = config.train.batch * config.train.crop
    result = {'samples_per_second': samples / seconds, 'step_ms': 1e3 * seconds,
              'loader_share': float(np.median(loading)) / seconds,
              'loader_samples_per_second': samples / float(np.median(loading))}
    return result | {'parts_ms': train_step.parts(
        model, config, next(batches), _REPEATS.value)} if _PARTS.value else result


def _prepared(config, folder):
  """The model, its batches, the compiled train step and the state before the first one."""
  model = models.build(config)
  batches = train_step.noise_batches(model, config, folder)
  step = backend.jit(functools.partial(step_lib.train_step, model, config), donate_argnums=0)
  return model, batches, step, step_lib.initial_state(model.init(0), config)


def backward_speedup(units=896, batch=32, steps=240) -> dict:
  """The recurrence alone, forward and backward: plain autodiff over hand-written."""
  keys = jax.random.split(jax.random.key(0), 5)
  R = jax.random.normal(keys[0], (units, 3 * units)) / units**0.5
  x = tuple(jax.random.normal(k, (steps, batch, units)) for k in keys[1:4])
  h, dy = jnp.zeros((batch, units)), jax.random.normal(keys[4], (steps, batch, units))
  seconds = measure.interleaved({
      name: measure.compiled(functools.partial(train_step.both_ways, f), dy, R, x, h)
      for name, f in (('plain', cell.autodiff_scan), ('hand_written', cell.scan))},
      max(5, _REPEATS.value // 2))
  return {'backward_speedup': seconds['plain'] / seconds['hand_written'],
          'recurrence_units': units, 'recurrence_batch': batch, 'recurrence_steps': steps,
          **{f'recurrence_{n}_samples_per_second': batch * steps / s
             for n, s in seconds.items()}}


def prediction_ratio() -> dict:
  """Times of the full step, its loader included, with a prediction and without, in turns."""
  with tempfile.TemporaryDirectory() as folder:
    seconds = measure.interleaved({prediction: _stepper(_config(prediction), folder)
                                   for prediction in ('none', 'spectral')}, _REPEATS.value)
  return {'prediction_ratio': seconds['spectral'] / seconds['none'],
          **{f'{name}_step_ms': 1e3 * s for name, s in seconds.items()}}


def _stepper(config, folder):
  """A function that takes a step with the next batch."""
  _, batches, step, state = _prepared(config, folder)

  def function():
    nonlocal state
    state, metrics = step(state, next(batches))
    return metrics
  return function


def _config(prediction: str = 'none') -> config_lib.Config:
  """What the flags ask for."""
  config = config_lib.Config()
  config.model.units, config.model.projection = _UNITS.value, _PROJECTION.value
  config.model.compute_dtype, config.model.prediction = _DTYPE.value, prediction
  config.train.batch, config.train.crop = _BATCH.value, _CROP.value
  rules.check(config)
  return config


def main():
  config = _config()
  result = {'units': _UNITS.value, 'projection': _PROJECTION.value, 'batch': _BATCH.value,
            'crop': _CROP.value, 'compute_dtype': _DTYPE.value, **full_step(config),
            'peak_memory_gib': measure.peak_memory_gib()}
  if _RECURRENCE.value:
    result |= backward_speedup()
  if _PREDICTION.value:
    result |= prediction_ratio()
  measure.report(result)


if __name__ == '__main__':
  cli.run(main)
