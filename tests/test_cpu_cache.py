"""Compiled code on disk: any damage costs a compilation, and no folder of others is used."""

import importlib.util
import os
import pickle
import warnings

import numba
import numpy as np
import pytest
from test_files import full_disk

from wavernn_jax.sampling.cpu import cache, loop

__all__ = ['full_disk']  # a fixture


@pytest.fixture
def folders(tmp_path, monkeypatch):
  """NUMBA_CACHE_DIR, and the folder of the module whose function is compiled."""
  for name in ('cache', 'module'):
    (tmp_path / name).mkdir(mode=0o700)
  (tmp_path / 'module' / 'total.py').write_text(
      'def total(x):\n  return x.sum() + len(x)\n')
  monkeypatch.setattr(numba.core.config, 'CACHE_DIR', str(tmp_path / 'cache'))
  yield tmp_path / 'cache', tmp_path / 'module'
  cache._is_safe.cache_clear()


def hits(module) -> int:
  """Whether a new process, as it were, finds its code; it computes rightly in any case."""
  spec = importlib.util.spec_from_file_location('total', module / 'total.py')
  loaded = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(loaded)
  total = cache.cached(loaded.total, **loop.OPTIONS)
  assert total(np.full(3, 0.25, np.float32)) == 3.75
  return sum(total.stats.cache_hits.values())


def test_code_is_found_again_until_its_file_changes(folders):
  folder, module = folders
  assert [hits(module), hits(module)] == [0, 1]
  path, = folder.rglob('*.nbc')
  assert not list(folder.rglob('.*'))
  (module / 'total.py').write_text('def total(x):\n  return len(x) + x.sum()\n')
  assert [hits(module), hits(module)] == [0, 1]
  assert path.exists()


def _flip(data, place):
  changed = bytearray(data)
  changed[place] ^= 1
  return bytes(changed)


DAMAGE = {
    'empty': lambda data: b'', 'cut in the checksum': lambda data: data[:31],
    'cut': lambda data: data[:len(data) // 2], 'cut by a byte': lambda data: data[:-1],
    'flipped checksum': lambda data: _flip(data, 3), 'flipped header': lambda data: _flip(data, 40),
    'flipped code': lambda data: _flip(data, len(data) // 2),
    'zeros': lambda data: bytes(len(data)),
    'another pickle': lambda data: cache.hashlib.sha256(pickle.dumps(3)).digest() + pickle.dumps(3),
    'no pickle': lambda data: cache.hashlib.sha256(b'no').digest() + b'no'}


@pytest.mark.parametrize('damage', DAMAGE)
def test_a_damaged_cache_costs_one_compilation(folders, damage):
  folder, module = folders
  assert hits(module) == 0
  path, = folder.rglob('*.nbc')
  whole = path.read_bytes()
  path.write_bytes(DAMAGE[damage](whole))
  assert [hits(module), hits(module)] == [0, 1]


def test_a_cache_that_cannot_be_written_or_read_costs_compilations(folders, full_disk):
  folder, module = folders
  full_disk(room=100)
  assert [hits(module), hits(module)] == [0, 0]
  assert not [p for p in folder.rglob('*') if p.is_file()]
  full_disk(room=10**9)
  assert hits(module) == 0
  path, = folder.rglob('*.nbc')
  path.unlink()
  path.mkdir()
  assert [hits(module), hits(module)] == [0, 0]


@pytest.mark.parametrize('place', ['the folder', 'a folder above'])
def test_a_folder_that_others_can_write_is_not_used_with_one_warning(folders, place):
  folder, module = folders
  assert hits(module) == 0
  path, = folder.rglob('*.nbc')
  path.write_bytes(b'planted')
  (path.parent if place == 'the folder' else folder).chmod(0o777)
  cache._is_safe.cache_clear()
  with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter('always')
    assert [hits(module), hits(module)] == [0, 1]
  assert [str(w.message).split(':')[0] for w in told] == [str(path.parent)]
  assert path.read_bytes() == b'planted'
  assert list((module / '__pycache__').glob('*.nbc'))  # the next of numba's folders


@pytest.mark.skipif(os.geteuid() != 0, reason='only root may give files away')
def test_a_folder_of_another_user_is_not_used(folders, monkeypatch):
  folder, module = folders
  assert hits(module) == 0
  for path in (folder, module / '__pycache__'):
    path.mkdir(exist_ok=True)
    os.chown(path, 12_345, -1)
  monkeypatch.setattr(cache._Impl, '_locator_classes', cache._Impl._locator_classes[:2])
  cache._is_safe.cache_clear()
  with pytest.warns(UserWarning, match='other users can write there'):
    assert [hits(module), hits(module)] == [0, 0]  # no folder is left
