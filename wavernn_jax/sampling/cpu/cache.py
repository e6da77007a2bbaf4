"""Compiled code on disk. It only saves time: what is damaged or missing is compiled anew.

It is code, too, so a folder that other users can write is not used. Whoever can write
this package's files is trusted: they are code as well.
"""

import functools
import hashlib
import os
import pathlib
import pickle
import warnings
import zlib

import numba
from numba.core import caching, serialize

from wavernn_jax import files
from wavernn_jax.errors import InputError


def cached(function, **options):
  """The function compiled, cached on disk for as long as this folder's code stays the same.

  To see whether what it has cached is stale numba looks at the function's own file,
  not at what it calls. So the checksum of all the code is part of the name it is
  cached by.

  Args:
    function: of a file.
    options: of `numba.njit`.
  """
  code = b''.join(p.read_bytes() for p in sorted(pathlib.Path(__file__).parent.glob('*.py')))
  function.__qualname__ += f'_{zlib.crc32(code):08x}'
  compiled = numba.njit(**options)(function)
  try:
    compiled._cache = _Cache(function)
  except RuntimeError:  # there is no folder that can be written and is safe
    pass
  return compiled


class _SafeLocator:
  """One of numba's ways to find a folder, unless others can write there."""

  def __init__(self, kind):
    self._kind = kind

  def from_function(self, function, file):
    locator = self._kind.from_function(function, file)
    return locator if locator and _is_safe(locator.get_cache_path()) else None


@functools.cache
def _is_safe(folder: str) -> bool:
  """Warns where it is not, once."""
  try:
    safe = not files.others_may_write(folder, trusted=(os.stat(__file__).st_uid,))
  except OSError:
    return False
  if not safe:
    warnings.warn(f'{folder}: other users can write there, so no compiled code is kept in it; '
                  'take their permission (chmod go-w, of the folders above too), or set '
                  'NUMBA_CACHE_DIR to a folder of your own.', stacklevel=2)
  return safe


class _Impl(caching.CompileResultCacheImpl):
  _locator_classes = [_SafeLocator(kind) for kind in caching.CacheImpl._locator_classes]


class _Cache(caching.FunctionCache):
  """A file with a checksum for each set of types, where numba has an index of files.

  Damaged code would not raise but crash; and of two processes that enter themselves
  in an index at once each could load what the other has compiled.
  """

  _impl_class = _Impl

  def load_overload(self, sig, target_context):
    target_context.refresh()
    key = self._key(sig, target_context.codegen())
    try:
      data = self._path(key).read_bytes()
      if hashlib.sha256(data[32:]).digest() != data[:32]:
        return None
      stored, result = pickle.loads(data[32:])
      return self._impl.rebuild(target_context, result) if stored == key else None
    except Exception:  # as of a version of numba that wrote it otherwise
      return None

  def save_overload(self, sig, data):
    if not self._impl.check_cachable(data):
      return
    key = self._key(sig, data.codegen)
    packed = serialize.dumps((key, self._impl.reduce(data)))
    try:
      with files.replacing(self._path(key)) as file:
        file.write(hashlib.sha256(packed).digest() + packed)
    except InputError:  # on a full disk
      pass

  def _key(self, sig, codegen):
    """Types, processor, and the file of the function."""
    return numba.__version__, self._impl.locator.get_source_stamp(), self._index_key(sig, codegen)

  def _path(self, key) -> pathlib.Path:
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).hexdigest()
    return pathlib.Path(self.cache_path) / f'{self._impl.filename_base}.{digest}.nbc'
