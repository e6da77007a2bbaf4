"""Cycles of a sample of runtime/ on ARM cores, from llvm-mca's model of them.

    python -m experiments.benchmarks.runtime_arm > runtime_arm.json
    python -m experiments.benchmarks.runtime_arm --units=192 --projection=128 --density=0.43

Nothing runs on a phone. The inner loops below are those that compilers make of
runtime/products.inc.h and step.inc.h, written out; llvm-mca gives the cycles of a turn on a
core whose caches hold everything. A sample is the turns that the model's blocks, units and
outputs take. The last line is one JSON object with the cycles of each part, the real-time
factor at the clock of --ghz, and the assumptions.
"""

import re
import shutil
import subprocess

from absl import app, flags

from experiments.benchmarks import measure
from wavernn_jax.errors import InputError

_UNITS = flags.DEFINE_integer('units', 1024, 'Hidden units, H.', 2)
_PROJECTION = flags.DEFINE_integer('projection', 512, 'Width of the output layers, P.', 1)
_DENSITY = flags.DEFINE_float('density', 0.05, 'Share of the blocks that all matrices keep.', 0, 1)
_RATE = flags.DEFINE_integer('sample_rate', 24_000, 'Sample rate in Hz.', 1)
CORES = {'cortex-a55': 1.8, 'cortex-a76': 2.6, 'cortex-x1': 2.8}  # GHz, of common phones
_GHZ = flags.DEFINE_multi_string('ghz', None, 'core:GHz in place of the usual clock.')
ASSUMPTIONS = [
    'int8 weights in blocks of 4x4, activations of 15 bits: two sdot a block',
    'weights and state are in the first-level cache; every load hits',
    'a row of blocks costs 12 cycles beside them, a mispredicted branch included',
    'exp as step.inc.h has it, four floats at a time: 3 a unit, 1 a value of a byte',
    'LLVM 14 has no model of cortex-a76 and cortex-x1; it takes that of the slower cortex-a57',
    'draws and the frame\'s conditioning are 800 cycles a sample, counted for all cores alike']
ROW_CYCLES, FIXED_CYCLES = 12, 800

# Two blocks: index, activations (8 bytes: high bytes, low bytes), weights, two products.
BLOCKS = '\n'.join(f'''
ldrh w{8 + u}, [x1, #{2 * u}]
ldr q{4 + u}, [x2, #{16 * u}]
ldr d{6 + u}, [x3, x{8 + u}, lsl #3]
sdot v{u}.4s, v{4 + u}.16b, v{6 + u}.4b[0]
sdot v{2 + u}.4s, v{4 + u}.16b, v{6 + u}.4b[1]''' for u in range(2)) + '''
add x1, x1, #4
add x2, x2, #32
subs x4, x4, #2
b.ne 0'''

# 2^x of four floats.
EXP = '''
ldr q1, [x1], #16
fmax v1.4s, v1.4s, v16.4s
fmin v1.4s, v1.4s, v17.4s
fadd v2.4s, v1.4s, v18.4s
fsub v3.4s, v2.4s, v18.4s
fsub v1.4s, v1.4s, v3.4s
mov v4.16b, v20.16b
fmla v4.4s, v1.4s, v19.4s
mov v5.16b, v21.16b
fmla v5.4s, v1.4s, v4.4s
mov v4.16b, v22.16b
fmla v4.4s, v1.4s, v5.4s
mov v5.16b, v23.16b
fmla v5.4s, v1.4s, v4.4s
mov v4.16b, v24.16b
fmla v4.4s, v1.4s, v5.4s
mov v5.16b, v25.16b
fmla v5.4s, v1.4s, v4.4s
mov v4.16b, v26.16b
fmla v4.4s, v1.4s, v5.4s
shl v2.4s, v2.4s, #23
add v1.4s, v4.4s, v2.4s
str q1, [x2], #16'''

# Gate inputs of four units of a gate: two frames and two bytes, then the state's update.
INPUTS = '''
ldr q0, [x1], #16
ldr q1, [x2], #16
ldr q2, [x3], #16
ldr q3, [x4], #16
fmul v4.4s, v0.4s, v16.4s
fmla v4.4s, v1.4s, v17.4s
fmla v4.4s, v2.4s, v18.4s
fmla v4.4s, v3.4s, v19.4s
str q4, [x5], #16'''
BLEND = '''
ldr q1, [x2], #16
ldr q2, [x3], #16
ldr q4, [x4], #16
fdiv v0.4s, v1.4s, v2.4s
fdiv v3.4s, v4.4s, v5.4s
fmul v6.4s, v7.4s, v16.4s
fmla v6.4s, v17.4s, v18.4s
str q6, [x1], #16'''
PARTS = {'blocks': (BLOCKS, 2), 'exp': (EXP, 4), 'inputs': (INPUTS, 4), 'blend': (BLEND, 4)}


def cycles(code: str, core: str) -> float:
  """Cycles of a turn, in the long run.

  Raises:
    InputError: if llvm-mca is missing or refuses.
  """
  if not shutil.which('llvm-mca'):
    raise InputError('llvm-mca: found no such program, expected that of LLVM 14 or newer; '
                     'install the package llvm.')
  turns = 200
  found = subprocess.run(
      ['llvm-mca', '-mtriple=aarch64', f'-mcpu={core}', '-mattr=+dotprod',
       f'-iterations={turns}'], input=code, text=True, capture_output=True, check=False)
  total = re.search(r'Total Cycles:\s+(\d+)', found.stdout)
  if not total:
    raise InputError(f'llvm-mca -mcpu={core}: {found.stderr.strip()[:200]}')
  return int(total[1]) / turns


def counts(units: int, projection: int, density: float) -> dict[str, float]:
  """Blocks and rows of the products, units and bytes of a sample."""
  shapes = [(units, units)] * 3 + [(projection, units // 2)] * 2 + [(256, projection)] * 2
  return {'blocks': sum(o * n * density / 16 for o, n in shapes),
          'rows': sum(o / 4 for o, _ in shapes), 'exp': 3 * units + 2 * 256, 'inputs': 3 * units,
          'blend': units}


def account(core: str, ghz: float, number: dict[str, float]) -> dict:
  """Cycles of each part of a sample, and what they come to."""
  found = {name: number[name] / each * cycles(code, core)
           for name, (code, each) in PARTS.items()}
  found |= {'rows': number['rows'] * ROW_CYCLES, 'fixed': FIXED_CYCLES}
  total = sum(found.values())
  return {'ghz': ghz, 'cycles': {name: round(value) for name, value in found.items()},
          'cycles_per_sample': round(total),
          'realtime_factor': round(ghz * 1e9 / total / _RATE.value, 2)}


def main(_):
  clocks = dict(CORES)
  for text in _GHZ.value or ():
    core, _, ghz = text.partition(':')
    try:
      clocks[core] = float(ghz)
    except ValueError as error:
      raise InputError(f'--ghz={text}: expected core:GHz, such as cortex-a76:2.6.') from error
  number = counts(_UNITS.value, _PROJECTION.value, _DENSITY.value)
  measure.report({
      'units': _UNITS.value, 'projection': _PROJECTION.value, 'density': _DENSITY.value,
      'counts': {name: round(value) for name, value in number.items()},
      'cores': {core: account(core, ghz, number) for core, ghz in clocks.items()},
      'assumptions': ASSUMPTIONS})


if __name__ == '__main__':
  app.run(main)
