"""A kernel compiler that hangs, crashes or is broken: one warning, and the scan sampler."""

import os
import shutil
import signal
import stat
import time

import jax
import numpy as np
import pytest
import random_models

from wavernn_jax import sampling
from wavernn_jax.config import Config, ModelConfig
from wavernn_jax.sampling import scan, stream
from wavernn_jax.sampling.persistent import chips, driver, engine
from wavernn_jax.voice import Voice

MACROS = (('HALF', 16),)
_C_COMPILER = shutil.which('cc')

COMPILERS = {  # of /bin/sh, and what they are named by
    'hangs': ('sleep 1000', 'nvcc has not ended within 1 s and was stopped'),
    'its child hangs': ('sleep 1000 & wait', 'nvcc has not ended within 1 s'),
    'ignores signals': ("trap '' TERM INT HUP; sleep 1000", 'nvcc has not ended within 1 s'),
    'crashes': ('kill -SEGV $$', 'nvcc: ended by signal 11'),
    'fails': ('echo no licence >&2; exit 3', 'nvcc: no licence'),
    'fails without a word': ('exit 3', 'nvcc: status 3'),
    'writes nothing': ('exit 0', 'the compiler wrote no kernel.cubin'),
    'prints no text': (r"printf '\377\376' >&2; exit 1", 'nvcc: ')}


@pytest.fixture
def nvcc(tmp_path, monkeypatch):
  """nvcc(script): the only compiler of this machine."""
  def install(script):
    path = tmp_path / 'nvcc'
    path.write_text(f'#!/bin/sh\necho $$ > {tmp_path}/pid\n{script}\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv('PATH', f'{tmp_path}:{os.environ["PATH"]}')
  monkeypatch.setattr(driver, 'nvrtc', lambda: None)
  monkeypatch.setattr(driver, 'COMPILER_SECONDS', 1)
  driver.compile_source.cache_clear()
  yield install
  driver.compile_source.cache_clear()


def _members(group: int) -> list[int]:
  """Processes of a group, but zombies, which wait for a parent."""
  found = []
  for name in filter(str.isdigit, os.listdir('/proc')):
    try:
      with open(f'/proc/{name}/stat') as file:
        state, _, of = file.read().rsplit(')', 1)[1].split()[:3]
    except OSError:
      continue
    if int(of) == group and state != 'Z':
      found.append(int(name))
  return found


@pytest.mark.skipif(not os.path.isdir('/proc/self'), reason='needs /proc')
@pytest.mark.parametrize('kind', COMPILERS)
def test_a_compiler_that_does_not_compile_is_an_error_and_leaves_no_process(nvcc, tmp_path, kind):
  script, reason = COMPILERS[kind]
  nvcc(script)
  start = time.monotonic()
  with pytest.raises(driver.CudaError) as caught:
    driver.compile_source(MACROS, 90)
  assert str(caught.value).startswith(reason) and time.monotonic() - start < 30
  group = int((tmp_path / 'pid').read_text())
  end = time.monotonic() + 10
  while _members(group) and time.monotonic() < end:
    time.sleep(0.01)
  assert not _members(group)


def test_a_compiler_that_cannot_be_run_is_an_error(nvcc, tmp_path):
  nvcc('')
  (tmp_path / 'nvcc').write_bytes(b'\x7fELF but no program')
  with pytest.raises(driver.CudaError, match='nvcc: .*nvcc cannot be run'):
    driver.compile_source(MACROS, 90)


def test_ctrl_c_ends_the_compiler_too(nvcc, tmp_path, monkeypatch):
  nvcc('sleep 1; kill -INT $PPID; sleep 1000')
  monkeypatch.setattr(driver, 'COMPILER_SECONDS', 60)
  # A shell's background job, such as this may be, ignores it.
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  try:
    with pytest.raises(KeyboardInterrupt):
      driver.compile_source(MACROS, 90)
  finally:
    signal.signal(signal.SIGINT, before)
  group = int((tmp_path / 'pid').read_text())
  end = time.monotonic() + 10
  while _members(group) and time.monotonic() < end:
    time.sleep(0.01)
  assert not _members(group)


@pytest.mark.parametrize('library', ['hangs', 'crashes', 'is none'])
def test_nvrtc_runs_in_a_process_of_its_own(tmp_path, monkeypatch, library):
  """Whatever a library does as it is loaded, or called, this process goes on."""
  if library != 'is none' and not _C_COMPILER:
    pytest.skip('needs a C compiler')
  path = tmp_path / 'libnvrtc.so.12'
  if library == 'is none':
    path.write_text('no library')
  else:
    body = {'hangs': 'for (;;);', 'crashes': '*(volatile int *)0 = 1; return 0;'}[library]
    source = tmp_path / 'nvrtc.c'
    source.write_text(f'int nvrtcCreateProgram(void) {{ {body} }}\n')
    assert not os.system(f'{_C_COMPILER} -shared -fPIC {source} -o {path}')
  monkeypatch.setattr(driver, 'nvrtc', lambda: str(path))
  monkeypatch.setattr(driver, 'COMPILER_SECONDS', 2)
  driver.compile_source.cache_clear()
  expected = {'hangs': 'NVRTC has not ended within 2 s',
              'crashes': f'NVRTC: ended by signal {signal.SIGSEGV:d}',
              'is none': 'NVRTC: .*libnvrtc'}[library]
  with pytest.raises(driver.CudaError, match=expected):
    driver.compile_source(MACROS, 90)
  driver.compile_source.cache_clear()


@pytest.mark.parametrize('kind', ['hangs', 'crashes'])
def test_the_scan_sampler_takes_its_place_with_one_warning(nvcc, monkeypatch, kind):
  script, reason = COMPILERS[kind]
  nvcc(script)
  config = Config(model=ModelConfig(units=32, projection=16, channels=8, layers=1),
                  mel=random_models.MEL)
  voice = Voice(config, *random_models.pruned_run(config), 'random')

  class Driver:
    def chip(self, _):
      return driver.Chip(132, 232_448, 90)

  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  monkeypatch.setattr(engine, 'open_chip', lambda voice, weights: chips.Cuda(
      voice.params, weights, voice.masks, Driver(), platform='cpu'))
  with pytest.warns(UserWarning, match='scan takes its place') as told:
    sampler = sampling.open(voice, 'pallas')
  assert len(told) == 1 and str(told[0].message).startswith(reason)
  assert type(sampler) is scan.ScanEngine
  mel = random_models.log_mel(config.mel, 20)
  assert len(stream.batch(sampler, [mel], np.zeros((1, 2), np.uint32))[0]) == 20 * 4
