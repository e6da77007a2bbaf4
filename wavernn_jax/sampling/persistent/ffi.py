"""An XLA custom call whose handler is a Python function that launches a kernel.

The documented way is a C++ handler compiled against the headers that jaxlib
brings; but it asks for a C++ compiler on the user's machine, while this one
asks for nothing. The structures are those of xla/ffi/api/c_api.h, a binary
interface that XLA promises to keep; jaxlib 0.10 to 0.12 agree on what is used
here, and tests run the handler on the CPU backend.

The handler runs once a block of audio, so that Python's time does not count.
"""

import ctypes
from ctypes import c_char_p, c_int, c_int64, c_size_t, c_uint32, c_void_p
import functools

import jax
import numpy as np

TARGETS = {'CUDA': 'wavernn_persistent', 'cpu': 'wavernn_persistent_emulated'}
_EXECUTE, _INTERNAL = 3, 13  # stage of a call; code of an error
_HEAD = [('struct_size', c_size_t), ('extension', c_void_p)]
_launches = []  # by the number that the custom call carries


class _Version(ctypes.Structure):
  _fields_ = [*_HEAD, ('major', c_int), ('minor', c_int)]


class _Buffer(ctypes.Structure):
  _fields_ = [*_HEAD, ('dtype', c_int), ('data', c_void_p), ('rank', c_int64),
              ('dims', ctypes.POINTER(c_int64))]


class _Buffers(ctypes.Structure):
  _fields_ = [*_HEAD, ('count', c_int64), ('types', c_void_p),
              ('buffers', ctypes.POINTER(ctypes.POINTER(_Buffer)))]


class _Scalar(ctypes.Structure):
  _fields_ = [('dtype', c_int), ('value', ctypes.POINTER(c_int64))]


class _Attributes(ctypes.Structure):
  _fields_ = [*_HEAD, ('count', c_int64), ('types', c_void_p), ('names', c_void_p),
              ('scalars', ctypes.POINTER(ctypes.POINTER(_Scalar)))]


class _StreamRequest(ctypes.Structure):
  _fields_ = [*_HEAD, ('context', c_void_p), ('stream', c_void_p)]


class _ErrorRequest(ctypes.Structure):
  _fields_ = [*_HEAD, ('message', c_char_p), ('code', c_int)]


class _Metadata(ctypes.Structure):
  _fields_ = [('struct_size', c_size_t), ('version', _Version), ('traits', c_uint32)]


class _Extension(ctypes.Structure):
  _fields_ = [('struct_size', c_size_t), ('type', c_int), ('next', c_void_p),
              ('metadata', ctypes.POINTER(_Metadata))]


_Request = ctypes.CFUNCTYPE(c_void_p, c_void_p)


class _Api(ctypes.Structure):
  _fields_ = [*_HEAD, ('version', _Version), ('internal', c_void_p), ('create_error', _Request),
              ('error_message', _Request), ('destroy_error', _Request),
              ('register_handler', _Request), ('get_stream', _Request)]


class _Call(ctypes.Structure):
  _fields_ = [('struct_size', c_size_t), ('extension', ctypes.POINTER(_Extension)),
              ('api', ctypes.POINTER(_Api)), ('context', c_void_p), ('stage', c_int),
              ('arguments', _Buffers), ('results', _Buffers), ('attributes', _Attributes)]


def add(launch) -> int:
  """The number by which a custom call names a launch.

  Args:
    launch: called with a stream (None on the CPU), and the (address, bytes) of
      all arguments and of all results, each of 4-byte elements.
  """
  _launches.append(launch)
  return len(_launches) - 1


def call(number: int, results, arguments, platform: str = 'CUDA'):
  """The custom call, inside `jax.jit`: arrays of the shapes `results`."""
  _register(platform)
  return jax.ffi.ffi_call(TARGETS[platform], results)(*arguments, launch=np.int64(number))


@functools.cache
def _register(platform):
  """Registers the handler; the cache keeps it alive, as XLA must find it until exit."""
  @_Request
  def handler(address):
    frame = ctypes.cast(address, ctypes.POINTER(_Call)).contents
    api = frame.api.contents
    if frame.extension:  # XLA asks for which interface the handler was made
      version = frame.extension.contents.metadata.contents.version
      version.major, version.minor = api.version.major, api.version.minor
      return None
    if frame.stage != _EXECUTE:
      return None
    try:
      _execute(frame, api, platform)
    except Exception as error:  # must not cross into C++
      message = f'{type(error).__name__}: {error}'.encode()
      request = _ErrorRequest(ctypes.sizeof(_ErrorRequest), None, message, _INTERNAL)
      return api.create_error(ctypes.addressof(request))
    return None

  jax.ffi.register_ffi_target(TARGETS[platform], jax.ffi.pycapsule(handler), platform=platform)
  return handler


def _execute(frame, api, platform):
  stream = _StreamRequest(ctypes.sizeof(_StreamRequest), None, frame.context, None)
  if platform != 'cpu' and api.get_stream(ctypes.addressof(stream)):
    raise RuntimeError('XLA gives no stream')
  number = frame.attributes.scalars[0].contents.value[0]
  _launches[number](stream.stream, _memory(frame.arguments), _memory(frame.results))


def _memory(buffers) -> list[tuple[int, int]]:
  """(address, bytes) of buffers of 4-byte elements."""
  found = (buffers.buffers[i].contents for i in range(buffers.count))
  return [(b.data, 4 * int(np.prod(b.dims[:b.rank], dtype=np.int64))) for b in found]
