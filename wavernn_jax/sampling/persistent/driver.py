"""CUDA from Python: a kernel compiled on the user's machine and launched.

The compiler is NVRTC, which comes with JAX's GPU wheels, or nvcc where that is
installed instead; the launch goes through the driver, which every machine with
a GPU has. Both are called by ctypes.
"""

import contextlib
import ctypes
import dataclasses
import functools
import glob
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import threading

SOURCE = pathlib.Path(__file__).with_name('persistent.cu')
OLDEST = 80  # compute capability × 10: reductions over a warp in one instruction
COMPILER_SECONDS = 300  # it takes about ten
_SHARED_ATTRIBUTE, _PROCESSORS, _SHARED_BYTES = 8, 16, 97
_MAJOR, _MINOR = 75, 76


class CudaError(RuntimeError):
  """A kernel could not be compiled or launched."""


@dataclasses.dataclass(frozen=True)
class Chip:
  """What a plan must know of a GPU."""
  processors: int  # multiprocessors
  shared_bytes: int  # of shared memory for one block
  capability: int  # major · 10 + minor


class Driver:
  """The CUDA driver, and the modules that are loaded in each of its contexts."""

  def __init__(self, library: str = 'libcuda.so.1'):
    """Raises CudaError if there is no such library."""
    try:
      self._cuda = ctypes.CDLL(library)
    except OSError as error:
      raise CudaError(f'{library} cannot be loaded: {error}') from error
    self._functions, self._lock = {}, threading.Lock()
    self._call('cuInit', ctypes.c_uint(0))

  def chip(self, ordinal: int = 0) -> Chip:
    def attribute(number):
      value = ctypes.c_int()
      self._call('cuDeviceGetAttribute', ctypes.byref(value), ctypes.c_int(number), device)
      return value.value
    device = ctypes.c_int()
    self._call('cuDeviceGet', ctypes.byref(device), ctypes.c_int(ordinal))
    return Chip(attribute(_PROCESSORS), attribute(_SHARED_BYTES),
                10 * attribute(_MAJOR) + attribute(_MINOR))

  def launch(self, image: bytes, name: str, grid: int, threads: int, shared_bytes: int, stream,
             arguments: list, cleared=()) -> None:
    """Launches blocks that all run at the same time.

    Args:
      image: compiled code.
      name: of the kernel in it.
      grid, threads: blocks, and threads of each.
      shared_bytes: of dynamic shared memory.
      stream: CUstream.
      arguments: ctypes values, one for each parameter.
      cleared: (address, bytes) of what is set to zero before.
    """
    stream, context = ctypes.c_void_p(stream), ctypes.c_void_p()
    self._call('cuStreamGetCtx', stream, ctypes.byref(context))
    self._call('cuCtxPushCurrent_v2', context)
    try:
      function = self._function(context.value, image, name, shared_bytes)
      for address, size in cleared:
        self._call('cuMemsetD8Async', ctypes.c_uint64(address), ctypes.c_ubyte(0),
                   ctypes.c_size_t(size), stream)
      addresses = (ctypes.c_void_p * len(arguments))(*map(ctypes.addressof, arguments))
      sizes = [ctypes.c_uint(n) for n in (grid, 1, 1, threads, 1, 1, shared_bytes)]
      self._call('cuLaunchCooperativeKernel', function, *sizes, stream, addresses)
    finally:
      self._call('cuCtxPopCurrent_v2', ctypes.byref(context))

  def _function(self, context, image, name, shared_bytes):
    """The kernel in a context, loaded once."""
    key = context, image, name, shared_bytes
    with self._lock:
      if key not in self._functions:
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        self._call('cuModuleLoadData', ctypes.byref(module), ctypes.c_char_p(image))
        self._call('cuModuleGetFunction', ctypes.byref(function), module, name.encode())
        self._call('cuFuncSetAttribute', function, ctypes.c_int(_SHARED_ATTRIBUTE),
                   ctypes.c_int(shared_bytes))
        self._functions[key] = function
      return self._functions[key]

  def _call(self, name, *arguments):
    status = getattr(self._cuda, name)(*arguments)
    if status:
      text = ctypes.c_char_p()
      self._cuda.cuGetErrorString(status, ctypes.byref(text))
      raise CudaError(f'{name}: {(text.value or b"").decode()} ({status})')


@functools.cache
def compile_source(macros: tuple[tuple[str, int], ...], capability: int) -> bytes:
  """Machine code of persistent.cu.

  The compiler runs in a process of its own, which may crash, and ends after a time.

  Args:
    macros: (name, value) of what the source leaves open.
    capability: of the GPU, major · 10 + minor.

  Raises:
    CudaError: if there is no compiler, it refuses the source, crashes or hangs.
  """
  options = ['-std=c++17', f'-I{SOURCE.parent}', *(f'-D{name}={value}' for name, value in macros)]
  library, nvcc = nvrtc(), shutil.which('nvcc')
  if not library and not nvcc:
    raise CudaError('neither NVRTC nor nvcc is found; `pip install nvidia-cuda-nvrtc` (for CUDA '
                    '12: nvidia-cuda-nvrtc-cu12) brings one')
  with tempfile.TemporaryDirectory() as folder:
    image = pathlib.Path(folder) / 'kernel.cubin'
    if library:
      _run_compiler('NVRTC', [sys.executable, '-I', __file__, library, str(image),
                              f'--gpu-architecture=sm_{capability}', *options])
    else:
      _run_compiler('nvcc', [nvcc, '-cubin', f'-arch=sm_{capability}', *options, '-o', str(image),
                             str(SOURCE)])
    try:
      return image.read_bytes()
    except OSError as error:
      raise CudaError(f'the compiler wrote no {image.name} ({error.strerror})') from error


def _run_compiler(name: str, command: list[str]) -> None:
  """Runs a compiler; one that does not end is killed, with the processes that it started."""
  try:
    # A session of its own, so that what it starts ends with it and not with Ctrl-C.
    compiler = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                stderr=subprocess.PIPE, text=True, errors='replace',
                                start_new_session=True)
  except OSError as error:
    raise CudaError(f'{name}: {command[0]} cannot be run ({error.strerror})') from error
  try:
    _, errors = compiler.communicate(timeout=COMPILER_SECONDS)
  except BaseException as error:
    with compiler, contextlib.suppress(ProcessLookupError):
      os.killpg(compiler.pid, signal.SIGKILL)
    if not isinstance(error, subprocess.TimeoutExpired):
      raise
    raise CudaError(f'{name} has not ended within {COMPILER_SECONDS} s and was stopped') from error
  if compiler.returncode:
    ended = (f'ended by signal {-compiler.returncode}' if compiler.returncode < 0
             else f'status {compiler.returncode}')
    raise CudaError(f'{name}: {errors.strip()[:500] or ended}')


def nvrtc() -> str | None:
  """The NVRTC library, from JAX's wheels or the system; None if there is none."""
  wheels = [path for folder in sys.path for path in glob.glob(
      os.path.join(folder, 'nvidia', '*', 'lib', 'libnvrtc.so.1[23]'))]
  for name in (*wheels, 'libnvrtc.so.13', 'libnvrtc.so.12'):
    try:
      ctypes.CDLL(name)
      return name
    except OSError:
      continue
  return None


def _compile_nvrtc(nvrtc, options) -> bytes:
  def call(name, *arguments):
    status = getattr(nvrtc, name)(*arguments)
    if status:
      nvrtc.nvrtcGetErrorString.restype = ctypes.c_char_p
      reason = nvrtc.nvrtcGetErrorString(status).decode()
      raise CudaError(f'{name}: {reason}\n{read("nvrtcGetProgramLog").decode()[:500]}')

  def read(name):
    size = ctypes.c_size_t()
    if getattr(nvrtc, f'{name}Size')(program, ctypes.byref(size)):
      return b''
    buffer = ctypes.create_string_buffer(size.value)
    getattr(nvrtc, name)(program, buffer)
    return buffer.raw

  program = ctypes.c_void_p()
  call('nvrtcCreateProgram', ctypes.byref(program), SOURCE.read_bytes(), b'persistent.cu', 0,
       None, None)
  try:
    words = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    call('nvrtcCompileProgram', program, len(options), words)
    return read('nvrtcGetCUBIN')
  finally:
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


if __name__ == '__main__':  # the process in which NVRTC compiles: library, image, options
  try:
    pathlib.Path(sys.argv[2]).write_bytes(_compile_nvrtc(ctypes.CDLL(sys.argv[1]), sys.argv[3:]))
  except (CudaError, OSError) as failure:
    sys.exit(str(failure))
