"""Reads recordings or mel spectrograms, and synthesises several at a time."""

import contextlib
import dataclasses
import os
import pathlib
import zlib

import numpy as np
import tqdm

from wavernn_jax import audio, draw, files
from wavernn_jax.config import MelConfig
from wavernn_jax.data import corpus, mel_files
from wavernn_jax.errors import InputError
from wavernn_jax.sampling import stream
from wavernn_jax.sampling.engine import Engine


@dataclasses.dataclass(frozen=True)
class Source:
  """One input: its name, its log mel, and the length of its audio."""

  name: str  # relative to the input folder, without suffix; determines its random numbers
  mel_FxM: np.ndarray
  samples: int

  @property
  def utterance(self) -> int:
    """The utterance of `draw.keys`: a function of the name alone."""
    return zlib.crc32(os.fsencode(self.name))


def find_sources(path) -> dict[str, pathlib.Path]:
  """Inputs by name: one file, or the wav, flac and npy files below a folder.

  If STEM.npy and STEM.wav lie side by side, the mel is taken.

  Raises:
    InputError: if there is nothing to synthesise.
  """
  path = pathlib.Path(path)
  # os.path, because it treats a name that is too long as one that does not exist.
  if os.path.exists(path) and not os.path.isdir(path):
    files.check_regular(path, 'a recording, a .npy mel, a manifest or a folder')
    return {path.stem: path}
  if not os.path.isdir(path):
    raise InputError(f'--input={path}: no such file or folder; expected wav or flac '
                     'recordings or .npy mels.')
  found = [p for p in files.walk(path)
           if p.suffix.lower() in (*corpus.AUDIO_SUFFIXES, '.npy') and not p.name.startswith('.')]
  found.sort(key=lambda p: p.suffix.lower() == '.npy')  # .npy last: it wins
  if not found:
    raise InputError(f'--input={path}: holds no wav, flac or npy file.')
  return {p.relative_to(path).with_suffix('').as_posix(): p for p in found}


def load_source(name: str, path: pathlib.Path, mel: MelConfig) -> Source:
  """Reads one input.

  Raises:
    InputError: if it is neither audio nor a log mel of this convention, or too short.
  """
  if path.suffix.lower() == '.npy':
    mel_FxM = mel_files.read_mel(path, mel, slack=mel_files.UNDERSHOOT)
    return Source(name, mel_FxM, len(mel_FxM) * mel.hop)
  pcm = audio.read_audio(path, mel.sample_rate)
  if len(pcm) <= audio.edge_padding(mel):
    raise InputError(f'{path}: too short: found {len(pcm)} samples, expected more than '
                     f'{audio.edge_padding(mel)}.')
  return Source(name, audio.utterance_log_mel(pcm, mel), len(pcm))


def synthesize(engine: Engine, sources: list[Source], seed: int, batch: int,
               title: str = 'synthesis'):
  """Yields (source, int16 pcm), longest first, `batch` at a time, with a progress bar.

  The audio of an utterance depends on its name, the seed and, only through the
  rounding of products, on the batch size.
  """
  mel = engine.model.mel
  ordered = sorted(sources, key=lambda s: -len(s.mel_FxM))
  total = sum(len(s.mel_FxM) for s in ordered) * mel.hop
  with progress_bar(total, mel, title) as progress:
    for first in range(0, len(ordered), batch):
      group = ordered[first:first + batch]
      empty = [np.zeros((0, mel.bands), np.float32)] * (batch - len(group))
      mels = [s.mel_FxM for s in group] + empty
      keys = draw.keys(seed, [s.utterance for s in group] + [0] * len(empty))
      pcms = stream.batch(engine, mels, keys, progress)
      for source, pcm in zip(group, pcms, strict=False):
        yield source, pcm[:source.samples]


@contextlib.contextmanager
def progress_bar(samples: int, mel: MelConfig, what: str):
  """A progress bar in seconds of audio; yields a function to call with samples done."""
  seconds = samples / mel.sample_rate
  with tqdm.tqdm(total=seconds, desc=what, dynamic_ncols=True,
                 bar_format='{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total:.1f} s of audio '
                 '[{elapsed}<{remaining}, {rate_fmt}]', unit=' s') as bar:
    yield lambda done: bar.update(min(done / mel.sample_rate, seconds - bar.n))
