"""Sampling speed and latency of subscale models against the number of lanes (§4).

    python -m experiments.benchmarks.subscale --units=896 --projection=448

All models have the same size; one utterance is sampled. The last line is one
JSON object: `rows` with `samples_per_second` once all lanes run,
`latency_seconds` (audio whose mel must be known before the first sample comes)
and `delay_seconds` (the part of it that is due to the lanes; an utterance takes
so much longer to draw), `speedup_over_plain` of the most lanes over one lane at
batch 1, and `context_share`, the part of the sampling time that the context
network takes: its time alone, compiled apart, over that of the whole block.
"""

import functools

from absl import app, flags
import jax

from experiments.benchmarks import measure
from wavernn_jax import backend, config as config_lib, models
from wavernn_jax.models import context, skew
from wavernn_jax.sampling import scan

_UNITS = flags.DEFINE_integer('units', 896, 'H.')
_PROJECTION = flags.DEFINE_integer('projection', 448, 'P.')
_CONTEXT = flags.DEFINE_integer('context_channels', 128, 'Of the context network.')
_DTYPE = flags.DEFINE_string('compute_dtype', 'float32', 'Of matrix products.')
_LANES = flags.DEFINE_multi_integer('lanes', [1, 2, 4, 8, 16], 'S; 1 is the plain model.')
_HORIZON = flags.DEFINE_integer('horizon', 64, 'F.')
_BLOCK = flags.DEFINE_integer('context_block', 50, 'L.')
_FRAMES = flags.DEFINE_integer('block_frames', 16, 'Frames a block.')
_REPEATS = flags.DEFINE_integer('repeats', 5, 'Timed blocks of each model.')


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
  config_lib.check(config)
  return config


def context_blocks(model, params, block_frames: int):
  """A function that runs the context network as often as a block of frames does."""
  config = model.config
  plan, state = skew.schedule(config), skew.initial_state(config, 1)
  times = block_frames * model.mel.hop // (config.lanes * config.context_block)

  def run(params, state):
    def body(state, _):
      seen, caches = skew.context_block(params, state, plan, config)
      added = context.gate_inputs(params, seen, config)
      return state | {'caches': caches}, (seen, added)
    return jax.lax.scan(body, state, length=times)

  function = backend.jit(run)
  return functools.partial(function, params['context'], state)


def main(_):
  built = {lanes: models.build(configuration(lanes)) for lanes in _LANES.value}
  params = {lanes: model.init(0) for lanes, model in built.items()}
  most = max(built)
  samplers = {lanes: scan.Sampler(model, params[lanes], block_frames=_FRAMES.value)
              for lanes, model in built.items()}
  functions = {lanes: measure.next_block(sampler, 1) for lanes, sampler in samplers.items()}
  if most > 1:
    functions['context'] = context_blocks(built[most], params[most], _FRAMES.value)
  seconds = measure.interleaved(functions, _REPEATS.value)
  mel = built[most].mel
  samples = _FRAMES.value * mel.hop
  rows = [{'engine': 'scan', 'lanes': lanes, 'samples_per_second': samples / seconds[lanes],
           'realtime_factor': samples / seconds[lanes] / mel.sample_rate,
           'latency_seconds': samplers[lanes].latency,
           'delay_seconds': model.delay / mel.sample_rate} for lanes, model in built.items()]
  result = {'units': _UNITS.value, 'projection': _PROJECTION.value, 'horizon': _HORIZON.value,
            'context_channels': _CONTEXT.value, 'context_block': _BLOCK.value,
            'compute_dtype': _DTYPE.value, 'rows': rows}
  if most > 1 and 1 in built:
    result |= {'speedup_over_plain': seconds[1] / seconds[most],
               'context_share': seconds['context'] / seconds[most]}
  measure.report(result)


if __name__ == '__main__':
  app.run(main)
