"""Sampling speed of the scan sampler at batch 1 and 16.

    python -m experiments.benchmarks.sampling --units=896 --projection=448

The last line is one JSON object; `rows` hold `samples_per_second` of all lanes
together and `realtime_factor` of one lane at 24 kHz.
"""

from absl import flags

from experiments import cli
from experiments.benchmarks import measure
from wavernn_jax import config as config_lib, models
from wavernn_jax.sampling import scan

_UNITS = flags.DEFINE_integer('units', 896, 'Hidden units, H.')
_PROJECTION = flags.DEFINE_integer('projection', 448, 'Width of the output layers, P.')
_DTYPE = flags.DEFINE_string('compute_dtype', 'float32', 'Number type of matrix products.')
_BATCHES = flags.DEFINE_multi_integer('batch', [1, 16], 'Utterances at a time.')
_REPEATS = flags.DEFINE_integer('repeats', 5, 'Timed blocks for each batch size.')
_BLOCK = flags.DEFINE_integer('block_frames', 16, 'Mel frames of a block.')


def main():
  config = config_lib.Config()
  config.model.units, config.model.projection = _UNITS.value, _PROJECTION.value
  config.model.compute_dtype = _DTYPE.value
  model = models.build(config)
  sampler = scan.ScanEngine(model, model.init(0), block_frames=_BLOCK.value)
  samples = _BLOCK.value * config.mel.hop
  blocks = {b: measure.next_block(sampler, b) for b in _BATCHES.value}
  seconds = measure.interleaved(blocks, _REPEATS.value)
  rows = [{'batch': b, 'samples_per_second': b * samples / s,
           'realtime_factor': samples / s / config.mel.sample_rate}
          for b, s in seconds.items()]
  measure.report({'units': _UNITS.value, 'projection': _PROJECTION.value, 'engine': 'scan',
                  'compute_dtype': _DTYPE.value, 'rows': rows,
                  'peak_memory_gib': measure.peak_memory_gib()})


if __name__ == '__main__':
  cli.run(main)
