"""Measures of a folder of recordings: lengths, rates, levels, silence, clipping, noise, bits."""

import concurrent.futures
import dataclasses
import os
import pathlib

import numpy as np

from wavernn_jax import audio, files as files_lib
from wavernn_jax.errors import InputError

_FRAME_SECONDS = 0.025
_FULL_SCALE = 32_768
_QUIET_DB = 35.0  # below the speech of a file: a pause
_RUN = 3  # samples at the peak in a row: clipped
_PEAK = 0.25  # of full scale; runs at a lower peak are not clipping
_HEADROOM_DB = 1.0
_LEAST_GAIN = 1.25  # less is not worth a new corpus
_MUCH_SILENCE = 0.4


@dataclasses.dataclass(frozen=True)
class File:
  """One recording. Levels are in dB relative to full scale; digital silence is −inf.

  `step` divides every sample, so 16 − log2(step) bits are in use.
  """

  path: str
  seconds: float
  sample_rate: int
  channels: int
  peak_db: float
  speech_db: float  # RMS of the frames that are not pauses
  noise_db: float  # RMS of the quietest twentieth of the frames
  silence: float  # share of the frames that are pauses
  clipped: int  # samples in runs at the peak
  step: int
  coarse: np.ndarray  # counts of the 256 coarse bytes

  @property
  def bits(self) -> float:
    return 16 - float(np.log2(self.step))


def read(paths) -> tuple[list[File], dict[str, str]]:
  """The files that can be read, and for each other path what is wrong with it."""
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    results = list(pool.map(_read, map(str, paths)))
  return ([r for r in results if isinstance(r, File)],
          {str(p): r for p, r in zip(paths, results, strict=True) if isinstance(r, str)})


def _read(path: str):
  try:
    file = audio.open_audio(path)
    return measure(path, file.read(0, file.frames), file.sample_rate, file.channels)
  except InputError as error:
    return str(error)


def measure(path: str, pcm: np.ndarray, sample_rate: int, channels: int = 1) -> File:
  """Measures int16 samples."""
  x = pcm.astype(np.float64) / _FULL_SCALE
  length = min(len(x), max(1, round(_FRAME_SECONDS * sample_rate)))
  frames = x[:len(x) // length * length].reshape(-1, length)
  power = (frames**2).mean(axis=1)
  loudest = np.quantile(power, 0.95)
  pauses = power < loudest * 10**(-_QUIET_DB / 10)
  quietest = np.sort(power)[:max(1, len(power) // 20)]
  values = np.flatnonzero(np.bincount(pcm.astype(np.int64) + _FULL_SCALE)) - _FULL_SCALE
  return File(
      path, len(pcm) / sample_rate, sample_rate, channels, _db(np.abs(x).max()**2),
      _db(power[~pauses].mean()) if not pauses.all() else -np.inf, _db(quietest.mean()),
      float(pauses.mean()), _clipped(pcm), int(np.gcd.reduce(values)) or 1,
      np.bincount(audio.split_bytes(pcm)[0], minlength=256))


def _db(power: float) -> float:
  return float(10 * np.log10(power)) if power > 0 else -np.inf


def _clipped(pcm: np.ndarray) -> int:
  """Samples in runs of `_RUN` or more at the highest or the lowest value of a file."""
  count = 0
  for peak in (pcm.max(), pcm.min()):
    if abs(int(peak)) < _PEAK * _FULL_SCALE:
      continue
    edges = np.flatnonzero(np.diff(np.r_[0, pcm == peak, 0].astype(np.int8)))
    runs = edges[1::2] - edges[::2]
    count += int(runs[runs >= _RUN].sum())
  return count


def summary(files: list[File]) -> dict:
  """Totals, medians and extremes over all files, and the gain that would use the full range."""
  def spread(name):
    values = np.array([getattr(f, name) for f in files])
    finite = values[np.isfinite(values)]
    return [round(float(v), 2) for v in np.quantile(finite, [0, 0.5, 1])] if len(finite) else None
  rates, channels = ([getattr(f, name) for f in files] for name in ('sample_rate', 'channels'))
  peak = max(f.peak_db for f in files)
  return {
      'files': len(files), 'hours': round(sum(f.seconds for f in files) / 3600, 4),
      'sample_rates': {str(r): rates.count(r) for r in sorted(set(rates))},
      'channels': {str(c): channels.count(c) for c in sorted(set(channels))},
      **{name: spread(name) for name in ('seconds', 'peak_db', 'speech_db', 'noise_db')},
      'silence': round(float(np.average([f.silence for f in files],
                                        weights=[f.seconds for f in files])), 3),
      'clipped_files': sum(f.clipped > 0 for f in files),
      'clipped_samples': sum(f.clipped for f in files),
      'bits': round(16 - float(np.log2(np.gcd.reduce([f.step for f in files]))), 2),
      'suggested_gain': round(float(10**((-_HEADROOM_DB - peak) / 20)), 2)
                        if np.isfinite(peak) else None}


def advice(found: dict) -> list[str]:
  """Advice to the user before training on such files."""
  low, _, high = found['seconds']
  gain, rates = found['suggested_gain'], found['sample_rates']
  remarks = [
      (found['clipped_files'], f'{found["clipped_files"]} files are clipped '
       f'({found["clipped_samples"]} samples): record or export them again with less gain; '
       'otherwise the model learns to clip, too.'),
      (found['bits'] < 15.5, f'only {found["bits"]:g} of 16 bits are in use: the files were '
       'amplified, or had fewer bits. The likelihood credits a model for the empty bits: '
       'compare it only with others on this very corpus.'),
      (gain and gain >= _LEAST_GAIN, f'the loudest sample leaves room for a gain of {gain:g}. '
       'More gain uses more of the 16 bits, and adds up to ln(gain) nats/sample to any '
       'likelihood: state it beside your figures.'),
      (found['silence'] > _MUCH_SILENCE, f'{found["silence"]:.0%} of the audio is silence: trim '
       'the pauses, or training spends its steps on them.'),
      (len(rates) > 1, f'sample rates differ ({", ".join(rates)} Hz): all are resampled to that '
       'of the mel convention.'),
      (high > 60, f'the longest file has {high:.0f} s, and a batch of an evaluation takes as '
       'long as its longest file: cut long files at pauses.'),
      (found['hours'] < 0.25, f'{60 * found["hours"]:.1f} minutes are little: a single voice '
       'needs about an hour; --config.init_from=VOICE.safetensors starts from another voice.')]
  return [text for applies, text in remarks if applies]


def listed_paths(folder, suffix: str) -> list[pathlib.Path]:
  """Files below a folder, hidden ones left out; see `files.walk`."""
  return [p for p in files_lib.walk(folder)
          if p.suffix.lower() == suffix and not p.name.startswith('.') and p.is_file()]
