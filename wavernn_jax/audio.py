"""Audio and mel spectrograms: 16-bit bytes (§2), reading, writing, conventions.

Samples are 16-bit everywhere. A log mel equals librosa's for every convention
that `MelConfig` can express; `check_mel` and the STEM.mel.json sidecar keep a
spectrogram of another convention out.
"""

import contextlib
import dataclasses
import functools
import io
import os
import re
import warnings

import jax
import jax.numpy as jnp
import librosa
import numpy as np
import soundfile
import soxr

from wavernn_jax import files
from wavernn_jax.config import MelConfig
from wavernn_jax.errors import InputError

_FULL_SCALE = 32_768
_RATES = 4_000, 384_000  # Hz, of recordings; others are damaged headers
_DENSEST = 8_192  # samples of silence that a byte of flac can stand for
_STREAMED_BYTES = 2**31 - 2**16  # programs that write to a pipe put such a length
_CHUNK_F = 256  # frames that `utterance_log_mel` computes at a time


# 16-bit samples and bytes


def split_bytes(pcm):
  """Returns (coarse, fine), int32 in 0..255: the bytes of pcm + 32768."""
  value = pcm.astype(np.int32) + _FULL_SCALE
  return value >> 8, value & 255


def join_bytes(coarse, fine):
  """Inverts `split_bytes`: returns int16 samples."""
  return (coarse.astype(np.int32) * 256 + fine - _FULL_SCALE).astype(np.int16)


def scale_byte(byte):
  """Returns float32 in [-1, 1].

  Only the last operation rounds, so that values near 0, where speech lies, are
  exact to their own last bit on any engine.
  """
  return (2 * byte.astype(np.float32) - 255) * np.float32(1 / 255)


# Files


@dataclasses.dataclass(frozen=True)
class AudioFile:
  """What the header of an audio file says; `read` decodes a part of it."""

  path: str
  sample_rate: int  # Hz
  channels: int
  frames: int  # samples per channel

  def read(self, start: int, stop: int) -> np.ndarray:
    """Returns samples start..stop, int16 mono, by seeking.

    Channels are averaged and other sample formats rounded to 16 bits. Samples
    beyond full scale are clipped with a UserWarning.

    Raises:
      InputError: if the file is damaged, truncated or holds non-finite values.
    """
    return _to_int16(self._decode(start, stop), self.path)

  def _decode(self, start: int, stop: int) -> np.ndarray:
    """Returns mono samples in 16-bit steps: exact int16, otherwise float64."""
    if not 0 <= start <= stop <= self.frames:
      raise ValueError(f'{self.path}: {start}..{stop} is not in 0..{self.frames}')
    with _decoding(self.path), soundfile.SoundFile(
        os.fsencode(self.path)) as file:
      exact = file.subtype == 'PCM_16'
      file.seek(start)
      pcm_TxC = file.read(stop - start, 'int16' if exact else 'float64', always_2d=True)
    if len(pcm_TxC) < stop - start:
      raise InputError(
          f'{self.path}: truncated: samples end at {start + len(pcm_TxC)}, the header '
          f'says {self.frames}; copy or convert the file again.')
    if exact and self.channels == 1:
      return pcm_TxC[:, 0]
    if not np.isfinite(pcm_TxC).all():
      raise InputError(
          f'{self.path}: found NaN or infinite samples in {start}..{stop}, expected '
          'finite values; export the file again.')
    return pcm_TxC.mean(1) * (1 if exact else _FULL_SCALE)


def open_audio(path) -> AudioFile:
  """Reads the header of an audio file.

  Raises:
    InputError: if it is not a file, or is unreadable, empty or truncated, or its header
      gives no length or an impossible sample rate.
  """
  path = os.fspath(path)
  files.check_regular(path, 'a wav or flac file')
  with _decoding(path):
    # As bytes: soundfile encodes no name that is not UTF-8.
    info = soundfile.info(os.fsencode(path), verbose=True)
  if not _RATES[0] <= info.samplerate <= _RATES[1]:
    raise InputError(
        f'{path}: its header says {info.samplerate} Hz, expected {_RATES[0]} to {_RATES[1]}; '
        'convert the file again, or correct its header.')
  if info.frames == 0:
    raise InputError(
        f'{path}: holds no samples (or its header says so), expected speech; '
        'remove the file or convert it again.')
  if info.frames == np.iinfo(np.int64).max:
    raise InputError(
        f'{path}: its header gives no length; convert it again, writing to a file '
        'instead of a pipe.')
  # libsndfile shortens `frames` of a truncated WAV and only logs that it did.
  cut = re.search(r'^data : (\d+) \(should be (\d+)\)', info.extra_info, re.MULTILINE)
  if cut and int(cut[2]) < int(cut[1]) < _STREAMED_BYTES:
    raise InputError(
        f'{path}: truncated: found {cut[2]} bytes of samples, the header says '
        f'{cut[1]}; copy or convert the file again.')
  if info.frames > _DENSEST * os.path.getsize(path):
    raise InputError(
        f'{path}: its header says {info.frames} samples, more than {os.path.getsize(path)} bytes '
        'can hold; copy or convert the file again.')
  if _contradicts_itself(info):
    raise InputError(
        f'{path}: its header contradicts itself (channels, bits and bytes of a sample); '
        'convert the file again.')
  return AudioFile(path, info.samplerate, info.channels, info.frames)


def _contradicts_itself(info) -> bool:
  """Whether the sizes in a PCM wav disagree, of which libsndfile ignores one."""
  log = info.extra_info
  align, bits = (re.search(rf'^ *{name} *: (\d+)', log, re.MULTILINE)
                 for name in ('Block Align', 'Bit Width'))
  if not align or not bits or 'WAVE_FORMAT_PCM' not in log:
    return False
  return int(align[1]) != info.channels * -(-int(bits[1]) // 8)


def read_audio(path, sample_rate: int) -> np.ndarray:
  """Returns a whole file, int16 mono, resampled to `sample_rate` if it differs.

  Raises:
    InputError: as for `open_audio` and `AudioFile.read`.
  """
  file = open_audio(path)
  pcm = file._decode(0, file.frames)
  if file.sample_rate != sample_rate:
    pcm = soxr.resample(pcm.astype(np.float64), file.sample_rate, sample_rate, 'VHQ')
  return _to_int16(pcm, file.path)


def write_wav(path, pcm, sample_rate: int) -> None:
  """Writes int16 mono. The file appears complete or not at all.

  Raises:
    InputError: if the folder cannot be written to; `files.DiskFull` if it is full.
  """
  if pcm.dtype != np.int16:
    raise TypeError(f'{path}: expected int16 samples, found {pcm.dtype}')
  encoded = io.BytesIO()  # libsndfile does not always report that writing failed
  soundfile.write(encoded, np.asarray(pcm), sample_rate, 'PCM_16', format='WAV')
  with files.replacing(path) as file:
    file.write(encoded.getvalue())


def _to_int16(pcm, path: str) -> np.ndarray:
  if pcm.dtype == np.int16:
    return pcm
  if pcm.size and np.abs(pcm).max() > _FULL_SCALE:
    # No count in the message: Python then shows it once a file, not once a crop.
    warnings.warn(f'{path}: samples beyond full scale are clipped; lower its gain.',
                  stacklevel=3)
  return np.clip(np.rint(pcm), -_FULL_SCALE, _FULL_SCALE - 1).astype(np.int16)


@contextlib.contextmanager
def _decoding(path: str):
  try:
    yield
  except soundfile.LibsndfileError as e:
    reason = e.error_string if os.path.isfile(path) else 'there is no such file'
    raise InputError(
        f'{path}: cannot be read as audio ({reason}): missing, damaged, truncated or of '
        'another format; expected a wav or flac file: copy or convert it again.') from e


# Mel spectrograms


def mel_floor(mel: MelConfig) -> float:
  """Returns the lowest value of a log mel."""
  return float(_log(np.float64(mel.clamp), mel, np))


def edge_padding(mel: MelConfig) -> int:
  """Returns the number of samples by which an utterance is padded at each end."""
  return mel.n_fft // 2 if mel.center else (mel.n_fft - mel.hop) // 2


def frame_count(samples: int, mel: MelConfig) -> int:
  """Returns the number of frames of an utterance, once `pad_edges` has padded it."""
  if not samples:
    return 0
  return 1 + (samples + 2 * edge_padding(mel) - mel.n_fft) // mel.hop


def frame_offset(mel: MelConfig) -> int:
  """Returns o, where frame f is centred on sample f·hop + o."""
  return 0 if mel.center else mel.hop // 2


def pad_edges(pcm: np.ndarray, mel: MelConfig) -> np.ndarray:
  """Pads a whole utterance as the convention says."""
  return np.pad(pcm, edge_padding(mel), mel.pad_mode)


def log_mel(window_BxN, mel: MelConfig):
  """Returns the log mel, BxFxM with F = 1 + (N - n_fft)//hop, without padding.

  Pure jnp, float32. int16 samples are scaled by 1/32768.
  """
  if window_BxN.dtype == jnp.int16:
    window_BxN = window_BxN.astype(jnp.float32) / _FULL_SCALE
  frames_BxFxW = _frames(window_BxN, mel) * hann(mel.window).astype(np.float32)
  # The window's place inside n_fft changes phases only.
  stft_BxFxX = jnp.fft.rfft(frames_BxFxW, mel.n_fft)
  power_BxFxX = stft_BxFxX.real**2 + stft_BxFxX.imag**2 + mel.power_floor
  spectrum_BxFxX = (
      jnp.sqrt(power_BxFxX) if mel.power == 1 else power_BxFxX ** (mel.power / 2))
  # 'highest': accelerators would round the inputs to 10 bits or fewer.
  mel_BxFxM = jnp.einsum('bfx,mx->bfm', spectrum_BxFxX, filterbank(mel),
                         precision='highest')
  return _log(jnp.maximum(mel_BxFxM, mel.clamp), mel, jnp)


def utterance_log_mel(pcm: np.ndarray, mel: MelConfig) -> np.ndarray:
  """Returns the log mel of a whole utterance of any length, FxM float32.

  It is computed in pieces of equal size: one compilation, bounded memory.
  """
  frames = frame_count(len(pcm), mel)
  padded = pad_edges(pcm, mel) if frames else pcm
  chunk_N = (_CHUNK_F - 1) * mel.hop + mel.n_fft
  log_mel_chunk = _compiled_log_mel(dataclasses.astuple(mel))
  pieces = [np.zeros((0, mel.bands), np.float32)]
  for first in range(0, frames, _CHUNK_F):
    window = padded[first * mel.hop:][:chunk_N]
    window = np.pad(window, (0, chunk_N - len(window)))
    pieces.append(np.asarray(log_mel_chunk(window[None])[0, :frames - first]))
  return np.concatenate(pieces)


def _frames(window_BxN, mel: MelConfig):
  """Cuts out the `window` samples of each frame that the Hann window keeps, BxFxW.

  Frames are shifted slices of blocks of `hop` samples: no gather, any hop.
  """
  B, N = window_BxN.shape
  F = 1 + (N - mel.n_fft) // mel.hop
  if N < mel.n_fft:
    raise ValueError(f'{N} samples hold no frame of n_fft = {mel.n_fft}')
  shifts = -(-mel.window // mel.hop)
  first = (mel.n_fft - mel.window) // 2
  needed = (F + shifts - 1) * mel.hop
  window_BxN = window_BxN[:, first:first + needed]
  missing = needed - window_BxN.shape[1]  # of a last block that no frame uses whole
  blocks = jnp.pad(window_BxN, ((0, 0), (0, missing))).reshape(B, -1, mel.hop)
  shifted = [blocks[:, s:s + F] for s in range(shifts)]
  return jnp.concatenate(shifted, axis=-1)[..., :mel.window]


def hann(length: int) -> np.ndarray:
  return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)


def filterbank(mel: MelConfig) -> np.ndarray:
  """Returns the filters, MxX with X = n_fft/2 + 1."""
  return librosa.filters.mel(
      sr=mel.sample_rate, n_fft=mel.n_fft, n_mels=mel.bands, fmin=mel.fmin, fmax=mel.fmax,
      htk=mel.mel_scale == 'htk', norm=None if mel.mel_norm == 'none' else mel.mel_norm)


def _log(x, mel: MelConfig, numpy):
  return numpy.log10(x) if mel.log == '10' else numpy.log(x)


@functools.cache
def _compiled_log_mel(mel_fields: tuple):
  mel = MelConfig(*mel_fields)  # configs are mutable: the key holds their values
  return jax.jit(lambda window_BxN: log_mel(window_BxN, mel))


def flat_spectrum_level(mel: MelConfig, stft_power: float) -> np.ndarray:
  """Returns the log mel, M, of a spectrum that is stft_power everywhere."""
  bin_level = (stft_power + mel.power_floor) ** (mel.power / 2)
  mel_M = np.float64(filterbank(mel)).sum(1) * bin_level
  return _log(np.maximum(mel_M, mel.clamp), mel, np)
