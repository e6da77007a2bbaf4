"""runtime/ compiled for tests: as a library in this process, and as a program."""

import ctypes
import functools
import pathlib
import shutil
import subprocess
import tempfile

import numpy as np
import random_models

from wavernn_jax.config import Config, EvaluationConfig, MelConfig, ModelConfig, PruningConfig
from wavernn_jax.models import wavernn
from wavernn_jax.sampling import export as export_lib
from wavernn_jax.sampling.engine import Engine

SOURCE = pathlib.Path(__file__).parents[1] / 'runtime'
WARNINGS = '-Wall', '-Wextra', '-Werror'
SANITIZERS = ('-g', '-fsanitize=address,undefined,float-cast-overflow',
              '-fno-sanitize-recover=all')
CROSS = 'aarch64-linux-gnu-gcc'
EMULATOR = 'qemu-aarch64'
COUNTED = '-DCOUNT_ALLOCATIONS', *(
    f'-Wl,--wrap={name}' for name in ('malloc', 'calloc', 'realloc', 'aligned_alloc'))
_FOLDER = tempfile.TemporaryDirectory()


class Info(ctypes.Structure):
  """wavernn_info."""
  _fields_ = [(name, ctypes.c_int) for name in ('sample_rate', 'bands', 'hop', 'ahead')] + [
      ('floor', ctypes.c_float)]


@functools.cache
def build(compiler: str, *options: str, program: bool = False) -> pathlib.Path:
  """The library, or the program of runtime/test, that a compiler makes of all files."""
  path = pathlib.Path(_FOLDER.name) / f'{abs(hash((compiler, options, program)))}'
  sources = [str(f) for f in sorted(SOURCE.glob('*.c')) if f.name != 'wavernn_say.c']
  kind = [str(SOURCE / 'test' / 'check.c')] if program else ['-shared', '-fPIC']
  subprocess.run([shutil.which(compiler), '-std=gnu11', '-O2', *WARNINGS, *options, *sources,
                  *kind, '-I', str(SOURCE), '-lm', '-o', str(path)], check=True)
  return path


@functools.cache
def library(compiler: str = 'gcc', *options: str) -> ctypes.CDLL:
  """The library in this process."""
  found = ctypes.CDLL(str(build(compiler, *options)))
  found.wavernn_describe.restype = Info
  found.wavernn_kernel.restype = found.wavernn_error_text.restype = ctypes.c_char_p
  for name in ('push', 'pull', 'score', 'stream_bytes', 'voice_bytes'):
    getattr(found, f'wavernn_{name}').restype = ctypes.c_size_t
  return found


class VoiceError(Exception):
  """An error code of the library, and what it says."""

  def __init__(self, code: int, message: str):
    super().__init__(message)
    self.code = code


class Voice:
  """An open file, whose bytes are kept."""

  def __init__(self, data: bytes, found: ctypes.CDLL, kernel: str = ''):
    self.lib, self._data = found, ctypes.create_string_buffer(data, len(data))
    self.handle, message = ctypes.c_void_p(), ctypes.create_string_buffer(160)
    code = found.wavernn_open_buffer(self._data, ctypes.c_size_t(len(data)),
                                     ctypes.byref(self.handle), message)
    if code:
      raise VoiceError(code, message.value.decode())
    if kernel and not found.wavernn_use_kernel(self.handle, kernel.encode()):
      raise ValueError(f'{kernel}: not on this processor')
    self.info = found.wavernn_describe(self.handle)
    self.kernel = found.wavernn_kernel(self.handle).decode()

  def __del__(self):
    if self.handle:
      self.lib.wavernn_close(self.handle)


class Stream:
  """A stream of a voice."""

  def __init__(self, voice: Voice, temperatures=(1.0, 1.0)):
    self.voice, self.lib, self.handle = voice, voice.lib, ctypes.c_void_p()
    assert not self.lib.wavernn_stream_new(voice.handle, ctypes.byref(self.handle))
    assert not self.lib.wavernn_temperatures(
        self.handle, *(ctypes.c_float(t) for t in temperatures))

  def __del__(self):
    self.lib.wavernn_stream_free(self.handle)

  def reset(self, seed: int, utterance: int) -> None:
    self.lib.wavernn_reset(self.handle, ctypes.c_uint32(seed), ctypes.c_uint32(utterance))

  def push(self, mel_FxM) -> int:
    mel_FxM = np.ascontiguousarray(mel_FxM, np.float32)
    return self.lib.wavernn_push(self.handle, mel_FxM.ctypes.data_as(ctypes.c_void_p),
                                 ctypes.c_size_t(len(mel_FxM)))

  def end(self) -> None:
    self.lib.wavernn_end(self.handle)

  def pull(self, samples: int) -> np.ndarray:
    pcm = np.zeros(samples, np.int16)
    return pcm[:self.lib.wavernn_pull(
        self.handle, pcm.ctypes.data_as(ctypes.c_void_p), ctypes.c_size_t(samples))]

  def score(self, pcm) -> np.ndarray:
    """Nats [T, 2]."""
    pcm, nats = np.ascontiguousarray(pcm, np.int16), np.zeros((len(pcm), 2), np.float32)
    return nats[:self.lib.wavernn_score(
        self.handle, pcm.ctypes.data_as(ctypes.c_void_p), ctypes.c_size_t(len(pcm)),
        nats.ctypes.data_as(ctypes.c_void_p))]


class RuntimeEngine(Engine):
  """The library as an engine. A state is its streams, so it is used up by each call."""

  name = 'native'

  def __init__(self, export: export_lib.Export, temperatures=(1.0, 1.0), block_frames: int = 4,
               found: ctypes.CDLL | None = None, kernel: str = ''):
    self.voice = Voice(export_lib.to_bytes(export), found or library(), kernel)
    self.model = wavernn.WaveRNN(export.config.model, export.config.mel)
    self.block_frames, self._temperatures = block_frames, temperatures

  def initial_state(self, batch: int):
    return [None] * batch

  scoring_state = initial_state

  def next_block(self, state, mel_BxFxM, keys_Bx2):
    samples = self.block_frames * self.model.mel.hop
    state = self._fed(state, mel_BxFxM, keys_Bx2)
    return np.stack([s.pull(samples) for s in state]), state

  def score(self, state, pcm_BxN, mel_BxFxM):
    state = self._fed(state, mel_BxFxM, np.zeros((len(pcm_BxN), 2), int))
    nats_BxTx2 = np.stack([s.score(pcm) for s, pcm in zip(state, pcm_BxN, strict=True)])
    return {byte: nats_BxTx2[..., side] for side, byte in enumerate(wavernn.BYTES)}, state

  def _fed(self, state, mel_BxFxM, keys_Bx2):
    """The streams with the frames of a block that they do not yet have."""
    margin, streams = self.model.timing.margin, []
    for stream, mel_FxM, (seed, utterance) in zip(state, mel_BxFxM, keys_Bx2, strict=True):
      new_FxM = mel_FxM[2 * margin:]
      if stream is None:
        stream, new_FxM = Stream(self.voice, self._temperatures), mel_FxM[margin:]
        stream.reset(int(seed), int(utterance))
      assert stream.push(new_FxM) == len(new_FxM)
      streams.append(stream)
    return streams


class Program:
  """runtime/test/check.c, perhaps under an emulator."""

  def __init__(self, compiler: str, *options: str, emulator: tuple[str, ...] = ()):
    self._command = [*emulator, str(build(compiler, *options, program=True))]

  def run(self, *arguments) -> str:
    return subprocess.run([*self._command, *map(str, arguments)], check=True, text=True,
                          capture_output=True).stdout

  def say(self, data: bytes, mel_FxM, seed=0, utterance=0, temperature=1.0, kernel='-'):
    """Samples, and what the program printed."""
    return self._run('say', data, mel_FxM, np.int16, kernel, seed, utterance, temperature)

  def score(self, data: bytes, mel_FxM, pcm, kernel='-'):
    """Nats [T, 2], and what the program printed."""
    with tempfile.NamedTemporaryFile() as file:
      pathlib.Path(file.name).write_bytes(np.asarray(pcm, np.int16).tobytes())
      nats, printed = self._run('score', data, mel_FxM, np.float32, kernel, file.name)
    return nats.reshape(-1, 2), printed

  def _run(self, what: str, data: bytes, mel_FxM, dtype, kernel: str, *arguments):
    with tempfile.TemporaryDirectory() as folder:
      voice, mels, out = (pathlib.Path(folder) / name for name in ('voice', 'mels', 'out'))
      voice.write_bytes(data)
      mels.write_bytes(np.asarray(mel_FxM, np.float32).tobytes())
      printed = self.run(what, voice, mels, out, kernel, *arguments)
      return np.fromfile(out, dtype), printed


# Random voices, and what they say


@functools.cache
def packed(weights='float32', block=(16, 1), fields=(), mel=()):
  """A random model of half its blocks."""
  config = Config(
      model=ModelConfig(**{'units': 32, 'projection': 16, 'channels': 8, 'layers': 2,
                           'residuals': 3} | dict(fields)),
      mel=MelConfig(**(vars(random_models.MEL) | dict(mel))),
      evaluation=EvaluationConfig(block_frames=4),
      pruning=PruningConfig(recurrent=0.5, hidden=0.5, output=0.5, block_outputs=block[0],
                            block_inputs=block[1], start=0, steps=1))
  return export_lib.pack(*random_models.pruned_run(config), config, weights)


@functools.cache
def data(*key) -> bytes:
  return export_lib.to_bytes(packed(*key))


def mel_of(export, frames=9):
  return random_models.log_mel(export.config.mel, frames)


def said(voice: Voice, mel_FxM, seed=0, utterance=0) -> np.ndarray:
  """The samples of an utterance whose frames go in as they are taken."""
  speaker, made = Stream(voice), []
  speaker.reset(seed, utterance)
  while len(mel_FxM):
    mel_FxM = mel_FxM[speaker.push(mel_FxM):]
    made.append(speaker.pull(10_000))
  speaker.end()
  return np.concatenate([*made, speaker.pull(10_000)])
