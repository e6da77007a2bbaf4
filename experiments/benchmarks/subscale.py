"""Sampling speed and latency of subscale models against the number of lanes (§4).

    python -m experiments.benchmarks.subscale --units=896 --projection=448

All models have the same size; the scan sampler makes one utterance, all models in
turns. The last line is one JSON object: `rows` with `samples_per_second` once
all lanes run, `latency_seconds` (audio whose mel must be known before the first
sample comes) and `delay_seconds` (the part of it that is due to the lanes; an
utterance takes so much longer to draw), and of the most lanes

  speedup_over_plain
                  over one lane, one utterance at a time
  context_share   part of the sampling time that the context network takes, gates and
                  hidden layers included: its time alone over that of the whole block; lanes
                  that code residuals (--prediction=spectral) have none
"""

import functools

from absl import flags
import jax
import jax.numpy as jnp

from experiments import cli
from experiments.benchmarks import measure
from wavernn_jax import backend, config as config_lib, models, rules
from wavernn_jax.models import context, skew
from wavernn_jax.sampling import scan

_UNITS = flags.DEFINE_integer('units', 896, 'Hidden units, H.')
_PROJECTION = flags.DEFINE_integer('projection', 448, 'Width of the output layers, P.')
_PREDICTION = flags.DEFINE_enum('prediction', 'none', ['none', 'spectral'], 'Of all models.')
_AHEAD = flags.DEFINE_integer('taps_ahead', 112, 'config.model.taps_ahead of spectral lanes.')
_CONTEXT = flags.DEFINE_integer('context_channels', 128, 'Channels of the context network.')
_DTYPE = flags.DEFINE_string('compute_dtype', 'float32', 'Number type of matrix products.')
_LANES = flags.DEFINE_multi_integer(
    'lanes', [1, 2, 4, 8, 16], 'Numbers of lanes, S; 1 is the plain model.')
_HORIZON = flags.DEFINE_integer('horizon', 64, 'Horizon of a lane in positions, F.')
_BLOCK = flags.DEFINE_integer('context_block', 50, 'Positions of a block, L.')
_FRAMES = flags.DEFINE_integer('block_frames', 16, 'Mel frames of a block.')
_REPEATS = flags.DEFINE_integer('repeats', 5, 'Timed blocks of each model.')


def configuration(lanes: int) -> config_lib.Config:
  """A model of the benchmark."""
  config = config_lib.Config()
  config.model.units, config.model.projection = _UNITS.value, _PROJECTION.value
  config.model.compute_dtype, config.model.prediction = _DTYPE.value, _PREDICTION.value
  config.evaluation.block_frames = _FRAMES.value
  if lanes > 1:
    config.train.crop = 4 * lanes * (_HORIZON.value + 1)
    config.model.kind, config.model.lanes = 'subscale', lanes
    config.model.horizon, config.model.context_block = _HORIZON.value, _BLOCK.value
    config.model.context_channels = _CONTEXT.value
    config.model.context_layers = max(6, _HORIZON.value.bit_length() - 1)
    config.model.taps_ahead = _AHEAD.value
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


def sampler(lanes: int) -> scan.ScanEngine:
  """Of a random model."""
  model = models.build(configuration(lanes))
  return scan.ScanEngine(model, model.init(0), block_frames=_FRAMES.value)


def main():
  samplers = {lanes: sampler(lanes) for lanes in _LANES.value}
  functions = {lanes: measure.next_block(found, 1) for lanes, found in samplers.items()}
  most = max(_LANES.value)
  if most > 1 and _PREDICTION.value == 'none':
    functions['context'] = context_blocks(
        samplers[most].model, samplers[most].params, _FRAMES.value)
  seconds = measure.interleaved(functions, _REPEATS.value)
  mel = config_lib.MelConfig()
  samples = _FRAMES.value * mel.hop
  rows = [{'lanes': lanes, 'samples_per_second': samples / seconds[lanes],
           'realtime_factor': samples / seconds[lanes] / mel.sample_rate,
           'latency_seconds': found.latency,
           'delay_seconds': found.model.timing.delay / mel.sample_rate}
          for lanes, found in samplers.items()]
  result = {'units': _UNITS.value, 'projection': _PROJECTION.value, 'horizon': _HORIZON.value,
            'prediction': _PREDICTION.value, 'compute_dtype': _DTYPE.value, 'rows': rows}
  if 1 in seconds and most > 1:
    result['speedup_over_plain'] = seconds[1] / seconds[most]
  if 'context' in seconds:
    result |= {'context_channels': _CONTEXT.value, 'context_block': _BLOCK.value,
               'context_share': seconds['context'] / seconds[most]}
  measure.report(result)


if __name__ == '__main__':
  cli.run(main)
