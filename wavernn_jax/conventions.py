"""Recognises the mel convention of .npy files, by their values or by the audio beside them."""

import dataclasses
import functools
import pathlib

import numpy as np

from wavernn_jax import audio, config as config_lib
from wavernn_jax.config import MelConfig
from wavernn_jax.data import mel_files
from wavernn_jax.errors import InputError

_REFERENCES = sorted((pathlib.Path(__file__).parent / 'demo_speech' / 'train').glob('*_0*.flac'))
_AS_GOOD = 1.3  # times the least distance: cannot be told apart
_SAME = 0.1  # log units by which a mel may differ from that of its audio
_FAR = 0.6  # of the logarithm of spreads: another log base is off by 0.83


@dataclasses.dataclass(frozen=True)
class Fit:
  """How well conventions fit some files.

  Attributes:
    fits: names of the conventions that fit best, equally well.
    distances: by name, for those whose values are possible; smaller is nearer.
    ruled_out: by name, the reason.
    by_audio: whether distances are from the mels of the audio itself.
  """

  fits: list[str]
  distances: dict[str, float]
  ruled_out: dict[str, str]
  by_audio: bool

  def sentence(self) -> str:
    how = 'the audio beside them' if self.by_audio else 'their values'
    if not self.fits:
      reasons = '\n'.join(f'  {name}: {why}' for name, why in self.ruled_out.items())
      return f'the mels fit no known convention, by {how}:\n{reasons}'
    several = ('' if len(self.fits) == 1 or self.by_audio else
               '; put the audio beside them, under the same names, to tell these apart')
    return f'the mels fit {" or ".join(self.fits)}, by {how}{several}'


def candidates(mel: MelConfig) -> dict[str, MelConfig]:
  """The presets, and the convention of a config if it is not one of them."""
  found = config_lib.mel_presets()
  if mel not in found.values():
    found[f'config.mel ({mel.name})'] = mel
  return found


def identify(arrays: dict, mel: MelConfig, sounding: dict | None = None) -> Fit:
  """Tells the convention of mels.

  Args:
    arrays: as loaded from .npy files, by path.
    mel: of the config, a further candidate.
    sounding: the audio file of each, by the same paths, or None.
  """
  distances, ruled_out = {}, {}
  for name, candidate in candidates(mel).items():
    try:
      mels = {path: mel_files.check_mel(a, candidate, str(path), mel_files.UNDERSHOOT)
              for path, a in arrays.items()}
      distances[name] = (_from_audio(mels, sounding, candidate) if sounding
                         else _from_values(mels, candidate))
    except InputError as error:
      ruled_out[name] = str(error)
  limit = _SAME if sounding else _FAR
  for name, distance in list(distances.items()):
    if not distance <= limit:
      ruled_out[name] = f'off by {distance:.2f}, expected at most {limit}'
  good = {name: d for name, d in distances.items() if name not in ruled_out}
  least = min(good.values(), default=0)
  fits = sorted((n for n, d in good.items() if d <= max(_AS_GOOD * least, 1e-3)), key=good.get)
  return Fit(fits, distances, ruled_out, bool(sounding))


def _from_audio(mels: dict, sounding: dict, mel: MelConfig) -> float:
  """Mean distance from the mels of the audio; infinite where lengths disagree."""
  distances = []
  for path, found in mels.items():
    expected = audio.utterance_log_mel(audio.read_audio(sounding[path], mel.sample_rate), mel)
    if abs(len(found) - len(expected)) > 2:
      return float('inf')
    length = min(len(found), len(expected))
    distances.append(np.abs(found[:length] - expected[:length]).mean())
  return float(np.mean(distances))


def _from_values(mels: dict, mel: MelConfig) -> float:
  """How differently from other speech the bands spread, which does not depend on gain."""
  spread = _log_spread(np.concatenate(list(mels.values())))
  return float(np.abs(spread - _reference(dataclasses.astuple(mel))).mean())


def _log_spread(mel_FxM: np.ndarray) -> np.ndarray:
  """Logarithm of the spread of each band about its frame, in the louder half of the frames."""
  level_F = mel_FxM.mean(axis=1)
  loud = mel_FxM[level_F >= np.median(level_F)]
  return np.log(np.maximum((loud - loud.mean(axis=1, keepdims=True)).std(axis=0), 1e-6))


@functools.cache
def _reference(mel_fields: tuple) -> np.ndarray:
  mel = MelConfig(*mel_fields)
  return _log_spread(np.concatenate([
      audio.utterance_log_mel(audio.read_audio(path, mel.sample_rate), mel)
      for path in _REFERENCES]))
