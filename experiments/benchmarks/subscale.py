"""Sampling speed and latency of subscale models against the number of lanes (§4).

    python -m experiments.benchmarks.subscale --units=896 --projection=448
    taskset -c 0 python -m experiments.benchmarks.subscale --engine=cpu --weights=bfloat16
    taskset -c 0 python -m experiments.benchmarks.subscale --engine=cpu --units=1024 \\
        --projection=512 --density=0.05

All models have the same size; one utterance is sampled by each engine: the scan
sampler, and the CPU sampler from packed weights of a type. All are timed in
turns. The last line is one JSON object: `rows` with `samples_per_second` once
all lanes run, `latency_seconds` (audio whose mel must be known before the first
sample comes) and `delay_seconds` (the part of it that is due to the lanes; an
utterance takes so much longer to draw), and of the most lanes on each engine

  speedup_over_plain, cpu_speedup_over_plain
                  over one lane of the same engine, one utterance at a time
  context_share, cpu_context_share
                  part of the sampling time that the context network takes, gates and
                  hidden layers included: its time alone over that of the whole block
"""

import functools

from absl import app, flags
import jax
import jax.numpy as jnp

from experiments.benchmarks import cpu_loops, measure
from wavernn_jax import backend, config as config_lib, models, rules
from wavernn_jax.models import context, skew
from wavernn_jax.sampling import cpu, scan

_UNITS = flags.DEFINE_integer('units', 896, 'H.')
_PROJECTION = flags.DEFINE_integer('projection', 448, 'P.')
_CONTEXT = flags.DEFINE_integer('context_channels', 128, 'Of the context network.')
_DTYPE = flags.DEFINE_string('compute_dtype', 'float32', 'Of matrix products, scan sampler.')
_LANES = flags.DEFINE_multi_integer('lanes', [1, 2, 4, 8, 16], 'S; 1 is the plain model.')
_HORIZON = flags.DEFINE_integer('horizon', 64, 'F.')
_BLOCK = flags.DEFINE_integer('context_block', 50, 'L.')
_FRAMES = flags.DEFINE_integer('block_frames', 16, 'Frames a block.')
_REPEATS = flags.DEFINE_integer('repeats', 5, 'Timed blocks of each model.')
_ENGINES = flags.DEFINE_multi_enum('engine', ['scan', 'cpu'], ['scan', 'cpu'], 'Samplers.')
_WEIGHTS = flags.DEFINE_enum('weights', 'float32', ['float32', 'bfloat16', 'int8'],
                             'Of the CPU sampler.')
_DENSITY = flags.DEFINE_float('density', 1.0, 'Kept part of every matrix that can be pruned.',
                              0.0, 1.0)


def configuration(lanes: int) -> config_lib.Config:
  """A model of the benchmark."""
  config = config_lib.Config()
  config.model.units, config.model.projection = _UNITS.value, _PROJECTION.value
  config.model.compute_dtype = _DTYPE.value
  config.evaluation.block_frames = _FRAMES.value
  if lanes > 1:
    config.train.crop = 4 * lanes * (_HORIZON.value + 1)
    config.model.kind, config.model.lanes = 'subscale', lanes
    config.model.horizon, config.model.context_block = _HORIZON.value, _BLOCK.value
    config.model.context_channels = _CONTEXT.value
    config.model.context_layers = max(6, _HORIZON.value.bit_length() - 1)
  rules.check(config)
  return config


def context_blocks(model, params, block_frames: int):
  """A function that runs the context network as often as a block of frames does."""
  config = model.config
  plan, state = skew.schedule(config), skew.initial_state(config, 1)
  times = block_frames * model.mel.hop // (config.lanes * config.context_block)

  def run(params, state):
    def body(state, _):
      seen, nearest, caches = skew.context_block(params, state, plan, config)
      silent = jnp.zeros((*seen.shape[:-1], config.units))
      added = context.add_gate_inputs(params, (silent,) * 3, seen, nearest, config)
      return state | {'caches': caches}, (seen, added)
    return jax.lax.scan(body, state, length=times)

  function = backend.jit(run)
  return functools.partial(function, params['context'], state)


def cpu_context_blocks(sampler, block_frames: int):
  """The same of the CPU sampler."""
  steps = block_frames * sampler.model.mel.hop // sampler.model.lanes
  products = cpu_loops.context_products(sampler.network)
  started = sampler.utterance_states(sampler.initial_state(1))[0]

  def function():
    state = started
    for _ in range(steps // sampler.schedule.block):
      _, state = sampler.context(state)
    products(steps)
  return function


def engines() -> dict:
  """(engine, lanes) -> sampler."""
  exports = {lanes: measure.pruned_export(configuration(lanes), _DENSITY.value, _WEIGHTS.value)
             for lanes in _LANES.value}
  built = {}
  for lanes, export in exports.items():
    if 'scan' in _ENGINES.value:
      built['scan', lanes] = scan.Sampler(
          models.build(export.config), export.params(), block_frames=_FRAMES.value)
    if 'cpu' in _ENGINES.value:
      built['cpu', lanes] = cpu.open_sampler(export, block_frames=_FRAMES.value, threads=1)
  return built


def main(_):
  samplers = engines()
  functions = {key: measure.next_block(sampler, 1) for key, sampler in samplers.items()}
  most = max(_LANES.value)
  if ('scan', most) in samplers and most > 1:
    sampler = samplers['scan', most]
    functions['scan context'] = context_blocks(sampler.model, sampler.params, _FRAMES.value)
  if ('cpu', most) in samplers and most > 1:
    functions['cpu context'] = cpu_context_blocks(samplers['cpu', most], _FRAMES.value)
  seconds = measure.interleaved(functions, _REPEATS.value)
  mel = config_lib.MelConfig()
  samples = _FRAMES.value * mel.hop
  rows = [{'engine': engine, 'lanes': lanes, 'samples_per_second': samples / seconds[engine, lanes],
           'realtime_factor': samples / seconds[engine, lanes] / mel.sample_rate,
           'latency_seconds': sampler.latency,
           'delay_seconds': sampler.model.delay / mel.sample_rate}
          for (engine, lanes), sampler in samplers.items()]
  result = {'units': _UNITS.value, 'projection': _PROJECTION.value, 'horizon': _HORIZON.value,
            'density': _DENSITY.value, 'context_channels': _CONTEXT.value,
            'context_block': _BLOCK.value, 'compute_dtype': _DTYPE.value,
            'weights': _WEIGHTS.value, 'rows': rows}
  for engine, prefix in (('scan', ''), ('cpu', 'cpu_')):
    if f'{engine} context' in functions and (engine, 1) in seconds:
      result[f'{prefix}speedup_over_plain'] = seconds[engine, 1] / seconds[engine, most]
      result[f'{prefix}context_share'] = seconds[f'{engine} context'] / seconds[engine, most]
  measure.report(result)


if __name__ == '__main__':
  app.run(main)
