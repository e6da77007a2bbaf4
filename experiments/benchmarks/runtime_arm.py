"""Cycles of a sample of runtime/ on ARM cores, by llvm-mca's models of them; instructions by qemu.

    python -m experiments.benchmarks.runtime_arm > runtime_arm.json
    python -m experiments.benchmarks.runtime_arm --activations=int8 --compiler=clang-19
    python -m experiments.benchmarks.runtime_arm --model=FILE.safetensors

Nothing runs on a phone. The library, compiled for aarch64, speaks under qemu, which counts
how often each block of instructions runs: what 1,200 samples take more than 1,200 others. The
cycles of each block are those of llvm-mca for a core whose caches hold everything. The last line
is one JSON object: instructions of a sample, and for each core the cycles of its functions, those
lost to mispredicted branches, the real-time factor and the assumptions.
"""

import collections
import pathlib
import tempfile

from absl import flags
import numpy as np

from experiments import cli
from experiments.benchmarks import arm_code, measure
from wavernn_jax import config as config_lib
from wavernn_jax.errors import InputError
from wavernn_jax.sampling import export as export_lib

_MODEL = flags.DEFINE_string('model', '', 'An export, in place of a random model.')
_CASE = flags.DEFINE_string('case', '1024:512:0.05', 'units:projection:density.')
_WEIGHTS = flags.DEFINE_enum('weights', 'int8', ['float32', 'bfloat16', 'int8'], 'Of it.')
_BLOCK = flags.DEFINE_enum('block', '4x4', ['16x1', '4x4'], 'Shape of its blocks.')
_ACTIVATIONS = flags.DEFINE_enum('activations', 'float32', ['float32', 'int8'],
                                 'config.model.activations of it.')
_PREDICTION = flags.DEFINE_enum('prediction', 'none', ['none', 'spectral'], 'Of it.')
_RESIDUALS = flags.DEFINE_integer('residuals', 4, 'config.model.residuals of it.')
_COMPILER = flags.DEFINE_string('compiler', '', 'A clang, such as clang-19, in place of the cross '
                                'gcc.')
CORES = {'cortex-a55': arm_code.Core('cortex-a55', 2, True, 8, 1.8),
         'cortex-a76': arm_code.Core('neoverse-n1', 4, False, 11, 2.6),
         'cortex-x1': arm_code.Core('neoverse-v1', 5, False, 11, 2.8)}
_GHZ = flags.DEFINE_multi_string('ghz', None, 'core:GHz in place of the usual clock.')
ASSUMPTIONS = [
    'weights and state are in the first-level cache; every load hits',
    'a load of 16 bytes takes cortex-a55 two cycles and nothing runs beside it, as those who write '
    'kernels for it report; llvm-mca has one for ldr and six for a pair',
    'cortex-a76 is modelled as neoverse-n1 and cortex-x1 as neoverse-v1, the server cores made '
    'of them',
    'a turn takes at least instructions / decode width cycles: 2 (a55), 4 (a76), 5 (x1)',
    'beyond loops, what the slowest resource takes (a76, x1), or the code again and again (a55)',
    'the end of a loop is mispredicted each time: 8 (a55) or 11 cycles; of the rows of 4x4 int8 '
    'blocks, sorted by length, twice wherever the length changes',
    'blocks that are together less than 1% of the instructions: a cycle for each']
FRAMES, REST = (12, 16), 5e-5


def random_model() -> export_lib.Export:
  """The model of the flags."""
  config = config_lib.Config()
  config.model.units, config.model.projection, density = measure.case(_CASE.value)
  config.model.prediction, config.model.activations = _PREDICTION.value, _ACTIVATIONS.value
  config.model.residuals = _RESIDUALS.value
  return measure.pruned_export(config, density, _WEIGHTS.value,
                               tuple(map(int, _BLOCK.value.split('x'))))


def changes(export: export_lib.Export) -> int:
  """How often a row of int8 4x4 blocks has more blocks than the one before, once sorted."""
  matrices = [m for name, m in export.tensors.items()
              if export_lib.is_packed(m) and not name.startswith('conditioning')]
  return sum(len(np.unique(np.diff(m.offsets.astype(np.int64)))) for m in matrices)


def per_sample(export: export_lib.Export, folder: pathlib.Path) -> list[arm_code.Block]:
  """The blocks that run for a sample."""
  program, plugin = arm_code.compiled(folder, _COMPILER.value)
  export_lib.write(folder / 'voice', export)
  mel = export.config.mel
  found = []
  for frames in FRAMES:
    np.random.default_rng(0).normal(-5, 2, (frames, mel.bands)).astype(np.float32).tofile(
        folder / 'mels')
    found.append(arm_code.counts(program, plugin, 'say', folder / 'voice', folder / 'mels',
                                 folder / 'pcm', '-', 1, 1, 1))
  found[1].subtract(found[0])
  samples = (FRAMES[1] - FRAMES[0]) * mel.hop
  return arm_code.blocks(program, {a: n / samples for a, n in found[1].items() if n > 0})


def account(core: arm_code.Core, ghz: float, blocks: list[arm_code.Block],
            export: export_lib.Export) -> dict:
  """Cycles of the functions of a sample, and what they come to."""
  found, missed = collections.Counter(), 0
  total = sum(b.count * len(b.code) for b in blocks)
  for block in blocks:
    name = block.function
    if block.count * len(block.code) < REST * total:
      found['others'] += block.count * len(block.code)
      continue
    found[name] += block.count * arm_code.cycles(block, core)
    if name != 'product_int8_dot' or export.block != (4, 4):
      missed += block.exits
  if export.weights == 'int8' and export.block == (4, 4):
    missed += 2 * changes(export)
  found['mispredicted'] = missed * core.miss
  cycles = sum(found.values())
  return {'model': core.model, 'ghz': ghz,
          'cycles': {name: round(n) for name, n in found.most_common()},
          'cycles_per_sample': round(cycles),
          'realtime_factor': round(ghz * 1e9 / cycles / export.config.mel.sample_rate, 2)}


def clocks() -> dict[str, float]:
  """GHz of each core."""
  found = {name: core.ghz for name, core in CORES.items()}
  for text in _GHZ.value or ():
    core, _, ghz = text.partition(':')
    try:
      if core not in CORES:
        raise ValueError(core)
      found[core] = float(ghz)
    except ValueError as error:
      raise InputError(f'--ghz={text}: expected core:GHz, such as cortex-a76:2.6, of '
                       f'{list(CORES)}.') from error
  return found


def main():
  ghz = clocks()
  export = (export_lib.packed(export_lib.read(_MODEL.value), '') if _MODEL.value
            else random_model())
  with tempfile.TemporaryDirectory() as folder:
    blocks = per_sample(export, pathlib.Path(folder))
  measure.report({
      'case': _MODEL.value or _CASE.value, 'weights': export.weights, 'block': export.block,
      'activations': export.config.model.activations,
      'prediction': export.config.model.prediction, 'compiler': _COMPILER.value or 'gcc',
      'instructions_per_sample': round(sum(b.count * len(b.code) for b in blocks)),
      'cores': {name: account(core, ghz[name], blocks, export) for name, core in CORES.items()},
      'assumptions': ASSUMPTIONS})


if __name__ == '__main__':
  cli.run(main)
