"""Sampling speed of the scan sampler, by size, or of several systems in turn.

    python -m experiments.benchmarks.sampling --units=896 --projection=448
    python -m experiments.benchmarks.sampling --system=dense:paper --system=wavenet:paper

A system is a configuration of experiments/configs and its variant. The last line is one JSON
object; `rows` hold `samples_per_second` of all utterances of a batch together and
`realtime_factor` of one at 24 kHz.
"""

import importlib

from absl import flags

from experiments import cli
from experiments.benchmarks import measure
from wavernn_jax import config as config_lib, models
from wavernn_jax.errors import InputError
from wavernn_jax.sampling import scan

_UNITS = flags.DEFINE_integer('units', 896, 'Hidden units, H.')
_PROJECTION = flags.DEFINE_integer('projection', 448, 'Width of the output layers, P.')
_SYSTEMS = flags.DEFINE_multi_string(
    'system', [], 'NAME:VARIANT of experiments/configs, in place of --units and --projection.')
_DTYPE = flags.DEFINE_string('compute_dtype', 'float32', 'Number type of matrix products.')
_BATCHES = flags.DEFINE_multi_integer('batch', [1, 16], 'Utterances at a time.')
_REPEATS = flags.DEFINE_integer('repeats', 5, 'Timed blocks for each batch size.')
_BLOCK = flags.DEFINE_integer('block_frames', 16, 'Mel frames of a block.')


def configurations() -> dict[str, config_lib.Config]:
  """Name -> configuration of each system that is timed."""
  if _SYSTEMS.value:
    return {name: _configuration(name) for name in _SYSTEMS.value}
  config = config_lib.Config()
  config.model.units, config.model.projection = _UNITS.value, _PROJECTION.value
  return {f'{_UNITS.value} units': config}


def _configuration(name: str) -> config_lib.Config:
  module, _, variant = name.partition(':')
  try:
    found = importlib.import_module(f'experiments.configs.{module}')
  except ModuleNotFoundError as error:
    raise InputError(f'--system={name}: there is no experiments/configs/{module}.py; expected '
                     'NAME:VARIANT, such as dense:paper.') from error
  return found.get_config(variant)


def engine(config: config_lib.Config) -> scan.ScanEngine:
  """The scan sampler of a random model."""
  config.model.compute_dtype = _DTYPE.value
  model = models.build(config)
  return scan.ScanEngine(model, model.init(0), block_frames=_BLOCK.value)


def main():
  engines = {name: engine(config) for name, config in configurations().items()}
  blocks = {(name, batch): measure.next_block(sampler, batch)
            for name, sampler in engines.items() for batch in _BATCHES.value}
  rows = []
  for (name, batch), seconds in measure.interleaved(blocks, _REPEATS.value).items():
    mel = engines[name].model.mel
    speed = _BLOCK.value * mel.hop / seconds
    rows.append({'system': name, 'batch': batch, 'samples_per_second': batch * speed,
                 'realtime_factor': speed / mel.sample_rate})
  measure.report({'engine': 'scan', 'compute_dtype': _DTYPE.value, 'rows': rows,
                  'peak_memory_gib': measure.peak_memory_gib()})


if __name__ == '__main__':
  cli.run(main)
