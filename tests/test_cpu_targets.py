"""The CPU sampler elsewhere: narrower registers, other processors, read-only folders."""

import json
import os
import pathlib
import re
import subprocess
import sys

import llvmlite.binding as llvm
import numpy as np
import pytest
import random_models

from wavernn_jax.sampling import blocksparse
from wavernn_jax.sampling.cpu import layout, loop

ROOT = pathlib.Path(__file__).parent.parent
HOP, SAMPLES = 7, 60
AVX2 = {'NUMBA_CPU_NAME': 'haswell',
        'NUMBA_CPU_FEATURES': '+avx,+avx2,+fma,+bmi,+bmi2,+popcnt,+sse4.2'}
x86 = pytest.mark.skipif(os.uname().machine != 'x86_64', reason='limits features of x86')

# Scores and draws of every type and block given; says which registers the code uses.
_SAMPLER = '''
import sys
sys.path.insert(0, 'tests')
import numpy as np
import random_models
from wavernn_jax.sampling.cpu import layout, loop
found = {}
for name in sys.argv[2:]:
  dtype, block, density = name.split('-')
  weights = random_models.weights(
      dtype=dtype, block=tuple(map(int, block.split('x'))), density=float(density))
  network, frames = layout.build(weights), random_models.frames(64)
  start = loop.initial_state(network)
  samples, _ = loop.sample(network, frames, 60, 7, start)
  scores, _ = loop.score(network, frames, samples, 7, start, with_logits=True)
  asm = ''.join(loop._loop.inspect_asm().values())
  found |= {f'{name}/samples': samples, f'{name}/logits': scores.logits,
            f'{name}/zmm': 'zmm' in asm, f'{name}/ymm': 'ymm' in asm,
            f'{name}/hits': sum(loop.run.stats.cache_hits.values())}
np.savez(sys.argv[1], **found)
'''


def run(path, names, environment, before=''):
  """The sampler of some matrices in a process of its own."""
  done = subprocess.run([sys.executable, '-c', before + _SAMPLER, str(path), *names], cwd=ROOT,
                        env=os.environ | environment, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
  return np.load(path)


def native(name):
  """Samples and logits of the machine's own code, and by how much rounding moves a logit.

  Where activations are int16, a float that rounds apart in its last bit may fall to the
  neighbouring integer. How much that matters is measured: last bits of the gate inputs are
  changed at random.
  """
  dtype, block, density = name.split('-')
  weights = random_models.weights(
      dtype=dtype, block=tuple(map(int, block.split('x'))), density=float(density))
  network, frames = layout.build(weights), random_models.frames(64)
  start = loop.initial_state(network)
  samples, _ = loop.sample(network, frames, SAMPLES, HOP, start)

  def logits(frames):
    return loop.score(network, frames, samples, HOP, start, with_logits=True)[0].logits
  expected, moved = logits(frames), 0
  for seed in range(8):
    towards = np.random.default_rng(seed).choice(np.float32([-9, 9]), frames.shape)
    moved = max(moved, np.abs(logits(np.nextafter(frames, towards)) - expected).max())
  return samples, expected, moved


def _compare(found, names, fused=True):
  """`fused`: both have fused products, and round alike."""
  for name in names:
    samples, logits, moved = native(name)
    error = 1e-4 if fused else max(1e-4, 2 * moved)
    assert moved < 1e-3, name
    np.testing.assert_allclose(found[f'{name}/logits'], logits, atol=error, err_msg=name)
    np.testing.assert_array_equal(found[f'{name}/samples'], samples, err_msg=name)


@x86
def test_registers_of_256_bits_give_the_same_samples(tmp_path):
  """tests/test_cpu_loop.py compares the native samples with plain numpy, in the same way."""
  names = ['float32-16x1-0.3', 'int8-16x1-0.3']
  found = run(tmp_path / 'avx2.npz', names, AVX2 | {'NUMBA_CACHE_DIR': str(tmp_path / 'cache')})
  for name in names:
    assert found[f'{name}/ymm'] and not found[f'{name}/zmm']
  _compare(found, names)


@x86
@pytest.mark.slow
@pytest.mark.parametrize('environment', [
    AVX2, {'NUMBA_CPU_NAME': 'x86-64', 'NUMBA_CPU_FEATURES': ''}], ids=['avx2', 'sse2'])
def test_every_kind_of_matrix_runs_on_older_processors(tmp_path, environment):
  names = [f'{dtype}-{block}-{density}' for dtype in blocksparse.DTYPES
           for block, density in (('16x1', 0.3), ('4x4', 0.3), ('16x1', 1.0))]
  found = run(tmp_path / 'old.npz', names, environment | {'NUMBA_CACHE_DIR': str(tmp_path / 'c')})
  assert not any(found[f'{name}/zmm'] for name in names)
  _compare(found, names, fused=environment is AVX2)


# The in-tree cache of a package that may only be read; HOME is where the user's cache is.
_READ_ONLY = '''
from numba.core import caching
def refuse(self):
  raise OSError(30, 'Read-only file system')
caching.InTreeCacheLocator.ensure_cache_path = refuse
if hasattr(caching, 'InTreeCacheLocatorFsAgnostic'):
  caching.InTreeCacheLocatorFsAgnostic.ensure_cache_path = refuse
'''
_NO_CACHE = _READ_ONLY + 'caching.UserWideCacheLocator.ensure_cache_path = refuse\n'


def test_compiled_code_is_cached_in_the_user_s_folder_if_the_package_is_read_only(tmp_path):
  names, home = ['float32-16x1-0.3'], {'HOME': str(tmp_path), 'XDG_CACHE_HOME': str(tmp_path)}
  first = run(tmp_path / '1.npz', names, home, _READ_ONLY)
  again = run(tmp_path / '2.npz', names, home, _READ_ONLY)
  assert (first[f'{names[0]}/hits'], again[f'{names[0]}/hits']) == (0, 1)
  assert list(tmp_path.rglob('*.nbc'))
  np.testing.assert_array_equal(first[f'{names[0]}/samples'], again[f'{names[0]}/samples'])


@pytest.mark.slow
def test_without_any_folder_to_cache_in_it_compiles_anew(tmp_path):
  names = ['float32-16x1-0.3']
  found = run(tmp_path / '1.npz', names, {'HOME': str(tmp_path)}, _NO_CACHE)
  assert found[f'{names[0]}/hits'] == 0 and not list(tmp_path.rglob('*.nbc'))
  _compare(found, names)


# Code for 64-bit Arm: compiled, not run.

_LLVM = '''
import json, sys
sys.path.insert(0, 'tests')
import random_models
from wavernn_jax.sampling.cpu import int16, layout, loop
int16._pmaddwd = lambda context: (None, 0)  # as on any processor but x86
found = {}
for name in sys.argv[2:]:
  dtype, block, density = name.split('-')
  weights = random_models.weights(
      dtype=dtype, block=tuple(map(int, block.split('x'))), density=float(density))
  network = layout.build(weights)
  loop.sample(network, random_models.frames(64), 1, 7, loop.initial_state(network))
  found[name] = list(loop._loop.inspect_llvm().values())[-1]
json.dump(found, open(sys.argv[1], 'w'))
'''


@pytest.mark.slow
def test_code_for_arm_is_neon_without_a_call_into_nothing(tmp_path):
  names = [f'{dtype}-{block}-{density}' for dtype in blocksparse.DTYPES
           for block, density in (('16x1', 0.3), ('4x4', 0.3), ('16x1', 1.0))]
  done = subprocess.run(
      [sys.executable, '-c', _LLVM, str(tmp_path / 'ir'), *names], cwd=ROOT, text=True,
      env=os.environ | {'NUMBA_CACHE_DIR': str(tmp_path / 'c')}, capture_output=True, check=False)
  assert done.returncode == 0, done.stderr
  for name, code in json.loads((tmp_path / 'ir').read_text()).items():
    assembly = _for_arm(code)
    integers = name.startswith('int8') or name in ('bfloat16-16x1-0.3', 'bfloat16-4x4-0.3')
    assert 'fmla' in assembly and ('smlal' in assembly) == integers, name
    called = set(re.findall(r'\tbl\t(\S+)', assembly))
    strange = called - set(re.findall(r'^(\S+):', assembly, re.MULTILINE))
    assert not [c for c in strange if not re.match('NRT_|Py|numba_|logf|mem', c)], name


def _for_arm(code: str) -> str:
  """Assembly of LLVM code that numba made for this machine, compiled for another."""
  llvm.initialize_all_targets()
  llvm.initialize_all_asmprinters()
  triple = 'aarch64-unknown-linux-gnu'
  # Numba counts references of its callers' arrays so, on x86 only.
  code = re.sub(r'(tail )?call i8 @llvm\.x86\.atomic\.sub\.cc\.i64\([^\n]*', 'add i8 0, 0', code)
  assert not re.search(r'call [^\n]*@llvm\.x86', code)
  lines = [f'target triple = "{triple}"' if line.startswith('target triple') else line
           for line in code.splitlines() if not line.startswith('target datalayout')]
  module = llvm.parse_assembly('\n'.join(lines))
  machine = llvm.Target.from_triple(triple).create_target_machine(cpu='neoverse-n1', opt=3)
  module.data_layout = str(machine.target_data)
  module.verify()
  return machine.emit_assembly(module)


_TYPES = """
import sys
import numpy as np
from wavernn_jax.sampling.cpu import cache, loop


def total(x):
  return x.sum() + len(x)


total = cache.cached(total, **loop.OPTIONS)
print(float(total(np.full(3, 0.25, sys.argv[1]))), sum(total.stats.cache_hits.values()))
"""


@pytest.mark.slow
def test_processes_that_compile_at_once_do_not_load_each_other_s_code(tmp_path):
  script = tmp_path / 'total.py'
  script.write_text(_TYPES)
  environment = os.environ | {'NUMBA_CACHE_DIR': str(tmp_path / 'cache'), 'PYTHONPATH': str(ROOT)}
  for hits in '0', '1':
    at_once = [subprocess.Popen([sys.executable, script, kind], env=environment, text=True,
                                stdout=subprocess.PIPE) for kind in ('f4', 'f8', 'i4', 'u2')]
    found = [process.communicate()[0].split() for process in at_once]
    assert [f[1] for f in found] == [hits] * 4
    assert [f[0] for f in found] == ['3.75', '3.75', '3.0', '3.0']
  assert len(list((tmp_path / 'cache').rglob('*.nbc'))) == 4
