"""Log mels of other programs: reads and writes them, and checks their convention.

A .npy file does not say how it was made. STEM.mel.json beside it (or mel.json
for a whole folder) does; without either, values that the convention cannot give
are refused.
"""

import dataclasses
import json
import math
import os
import pathlib

import numpy as np

from wavernn_jax import audio, files
from wavernn_jax.config import MelConfig
from wavernn_jax.errors import InputError

UNDERSHOOT = 1.0  # log units; the `slack` for TTS models, whose mels undershoot the floor
_LOUD_RMS = 0.1  # speech is quieter than this white noise in some band or frame
_FLOOR_BANDS = 4  # only a clamp gives as many bands the same lowest value


def check_mel(array, mel: MelConfig, name: str, slack: float = 1e-3) -> np.ndarray:
  """Returns a user's log mel as FxM float32, if it can be of this convention.

  Args:
    array: [bands, frames] (librosa, Tacotron 2, HiFi-GAN) or, where only the
      second axis has the number of bands, [frames, bands]. A leading axis of
      length 1 is dropped.
    mel: the convention expected.
    name: the file, for messages.
    slack: how far below the floor values may lie; the output of a TTS model
      undershoots it by more than rounding does.

  Raises:
    InputError: if shape, type or values rule the convention out.
  """
  mel_FxM = _frames_by_bands(array, mel, name)
  if not np.isfinite(mel_FxM).all():
    raise InputError(f'{name}: found NaN or infinite values, expected a finite log mel; '
                     'make it again.')
  problem = _other_convention(mel_FxM, mel, slack)
  if problem:
    raise InputError(
        f'{name}: {problem}: not a log mel of convention {mel.name!r} (log {mel.log}, '
        f'clamp {mel.clamp}, power {mel.power}). Make it by that convention, or set '
        'config.mel to its convention and use a model trained with that.')
  return mel_FxM.astype(np.float32)


def write_mel(path, mel_FxM, mel: MelConfig) -> None:
  """Writes [bands, frames] to path and the convention to STEM.mel.json beside it.

  Raises:
    InputError: if the folder cannot be written to.
  """
  with files.replacing(pathlib.Path(path).with_suffix('.mel.json')) as file:
    file.write(json.dumps(dataclasses.asdict(mel), indent=1).encode())
  with files.replacing(path) as file:
    np.save(file, np.asarray(mel_FxM).T, allow_pickle=False)


def read_mel(path, mel: MelConfig, slack: float = 1e-3) -> np.ndarray:
  """Returns the log mel of a .npy file, FxM float32.

  STEM.mel.json, or else the mel.json of the folder, must agree in all fields but
  `name` if it exists.

  Raises:
    InputError: as `check_mel`; if a file is unreadable; if the sidecar differs.
  """
  path = pathlib.Path(path)
  for sidecar in (path.with_suffix('.mel.json'), path.with_name('mel.json')):
    if sidecar.exists():
      _check_sidecar(sidecar, mel)
      break
  files.check_regular(path, 'a .npy file')
  try:
    with open(path, 'rb') as file:
      array = _read_floats(file)
  # numpy evaluates the header: a damaged one raises nearly anything.
  except Exception as e:
    raise InputError(f'{path}: cannot be read as a mel spectrogram ({_one_line(e)}); expected '
                     'a .npy file of floats, without pickled objects.') from e
  return check_mel(array, mel, str(path), slack)


def _read_floats(file) -> np.ndarray:
  """As numpy's reader, but compares the size in the header before it allocates memory."""
  version = np.lib.format.read_magic(file)
  read_header = {(1, 0): np.lib.format.read_array_header_1_0}.get(
      version, np.lib.format.read_array_header_2_0)
  shape, _, dtype = read_header(file)
  expected, found = math.prod(shape) * dtype.itemsize, os.fstat(file.fileno()).st_size - file.tell()
  if dtype.hasobject or expected > found or min(shape, default=0) < 0:
    raise ValueError(f'{found} bytes for {dtype} of shape {shape}')
  file.seek(0)
  return np.lib.format.read_array(file, allow_pickle=False)


def _one_line(error: Exception) -> str:
  reason = str(error).strip().split('\n')[0][:200]
  return reason or type(error).__name__


def _check_sidecar(path: pathlib.Path, mel: MelConfig) -> None:
  files.check_regular(path, 'a JSON file')
  try:
    found = json.loads(path.read_text('utf-8'))
    if not isinstance(found, dict):
      raise ValueError(f'found {type(found).__name__}')
  except (OSError, ValueError, RecursionError) as e:
    raise InputError(f'{path}: cannot be read ({_one_line(e)}); expected a JSON object with the '
                     'fields of MelConfig: correct or remove it.') from e
  expected = dataclasses.asdict(mel)
  differing = [f'{field} (found {found.get(field)!r:.80}, expected {expected.get(field)!r})'
               for field in dict(expected, **found)
               if field != 'name' and found.get(field) != expected.get(field)]
  if differing:
    raise InputError(
        f'{path}: mel convention differs from {mel.name!r} in {", ".join(differing)}. '
        'Make the mels by that convention, or use a model trained with this one.')


def _frames_by_bands(array, mel: MelConfig, name: str) -> np.ndarray:
  array = np.asarray(array)
  squeezed = array[0] if array.ndim == 3 and len(array) == 1 else array
  if array.dtype.kind != 'f' or squeezed.ndim != 2 or 0 in squeezed.shape:
    found = f'{array.dtype} of shape {array.shape}'
  elif squeezed.shape[0] == mel.bands:
    return squeezed.T
  elif squeezed.shape[1] == mel.bands:
    return squeezed
  else:
    found = f'{array.dtype} of shape {array.shape}, with another number of bands'
  raise InputError(
      f'{name}: found {found}; expected floats of shape [{mel.bands} bands, frames]: '
      f'make the mel by the convention {mel.name!r}.')


def _other_convention(mel_FxM: np.ndarray, mel: MelConfig, slack: float) -> str:
  """Returns why the values cannot be of this convention; '' where they can."""
  low, high, floor = mel_FxM.min(), mel_FxM.max(), audio.mel_floor(mel)
  slack += abs(floor) * float(np.finfo(mel_FxM.dtype).eps)
  loudest = audio.flat_spectrum_level(mel, (mel.window / 2)**2).max()
  silence = max(floor, audio.flat_spectrum_level(mel, 0).min())
  noise_M = audio.flat_spectrum_level(mel, _LOUD_RMS**2 * (audio.hann(mel.window)**2).sum())
  if low < floor - slack:
    return (f'found values down to {low:.4g}, expected none below the floor {floor:.4g} '
            '(another clamp or log base, dB or normalised values)')
  if high > loudest:
    return (f'found values up to {high:.4g}, but audio at full scale gives at most '
            f'{loudest:.4g} (not logarithmic, normalised, or of another power or log base)')
  if low <= silence + slack:
    return ''
  if low == high:
    return f'all values are {low:.4g}, expected speech (constant, or a placeholder)'
  if (mel_FxM >= noise_M).all():
    return (f'found values in {low:.4g}..{high:.4g}, expected some near the floor '
            f'{floor:.4g} (normalised values)')
  if mel_FxM.dtype != np.float16 and (mel_FxM == low).any(0).sum() >= _FLOOR_BANDS:
    return (f'the lowest value, {low:.4g}, recurs as a floor does, expected a floor of '
            f'{floor:.4g} (another clamp or log base, or normalised values)')
  return ''
