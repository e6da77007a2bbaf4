"""Finds the audio files of a corpus, splits them, and checks that they are usable."""

import collections
import concurrent.futures
import dataclasses
import functools
import hashlib
import itertools
import os
import pathlib
import warnings

import numpy as np

from wavernn_jax import audio, files as files_lib
from wavernn_jax.config import DataConfig, MelConfig
from wavernn_jax.data import fingerprint, mel_files
from wavernn_jax.errors import InputError

SPLITS = ('train', 'valid', 'test')
AUDIO_SUFFIXES = ('.wav', '.flac')
_SILENT_RANGE = 4  # 16-bit steps between the extremes of a file that holds only dither


@dataclasses.dataclass(frozen=True)
class Utterance:
  """One usable file. `pcm` is held if the corpus fits into memory."""

  file: audio.AudioFile
  samples: int  # at the sample rate of the mel convention
  digest: bytes  # of the decoded samples; empty when files were not checked
  pcm: np.ndarray | None = None
  mel_FxM: np.ndarray | None = None  # of the .npy beside it, config.data.mels='paired'
  fingerprint: np.ndarray | None = None  # of fingerprint.py, where files were checked

  @property
  def path(self) -> pathlib.Path:
    return pathlib.Path(self.file.path)

  @property
  def name(self) -> str:
    """The stem of the file name, with \\x.. for bytes that are not UTF-8."""
    return os.fsencode(self.path.stem).decode(errors='backslashreplace')

  def read(self, start: int, stop: int, sample_rate: int) -> np.ndarray:
    """Samples start..stop, int16, at the given rate."""
    if self.pcm is not None:
      return self.pcm[start:stop]
    if self.file.sample_rate == sample_rate:
      return self.file.read(start, stop)
    return _resampled(self.file.path, sample_rate)[start:stop]


@functools.lru_cache(maxsize=8)
def _resampled(path: str, sample_rate: int) -> np.ndarray:
  return audio.read_audio(path, sample_rate)


def utterance_mel(utterance: Utterance, mel: MelConfig) -> np.ndarray:
  """The log mel that conditions an utterance, FxM: from its .npy, or else from its audio."""
  if utterance.mel_FxM is not None:
    return utterance.mel_FxM
  return audio.utterance_log_mel(
      utterance.read(0, utterance.samples, mel.sample_rate), mel)


# Which files


def find_audio(folder) -> list[pathlib.Path]:
  """All wav and flac files below a folder, sorted by name; see `files.walk`.

  Raises:
    InputError: if the folder does not exist or holds none.
  """
  folder = pathlib.Path(folder)
  if not os.path.isdir(folder):
    raise InputError(f'{folder}: no such folder; expected one with wav or flac files '
                     '(--config.data.dir or --input).')
  paths = [p for p in files_lib.walk(folder)
           if p.suffix.lower() in AUDIO_SUFFIXES and not p.name.startswith('.')]
  if not paths:
    raise InputError(f'{folder}: no audio found, expected wav or flac files in it or '
                     'below; set --config.data.dir to the folder of your recordings.')
  return paths


def split_files(config: DataConfig) -> dict[str, list[pathlib.Path]]:
  """Files of train, valid and test: three folders, or one split by a hash of names.

  In a single folder the split of a file depends on its name alone, so that adding
  files moves no other. Only if a held-out split would be empty does it borrow a file
  from the next one, which may go back once there are more.
  """
  if not config.dir:
    raise InputError('--config.data.dir is not set; expected a folder of wav or flac '
                     'files, or one with the folders train, valid and test.')
  root = pathlib.Path(config.dir)
  present = [s for s in SPLITS if os.path.isdir(root / s)]
  if present:
    missing = [s for s in SPLITS if s not in present]
    if missing:
      raise InputError(f'{root}: has the folders {present} but not {missing}; expected '
                       'all of train, valid and test, or none of them.')
    return {s: find_audio(root / s) for s in SPLITS}
  return _hash_split(find_audio(root), root, config)


def _hash_split(paths, root, config: DataConfig):
  if len(paths) < len(SPLITS):
    raise InputError(f'{root}: found {len(paths)} audio files, expected at least '
                     f'{len(SPLITS)} to split into train, valid and test.')
  def position(path):
    name = path.relative_to(root).with_suffix('').as_posix()
    digest = hashlib.blake2b(os.fsencode(name), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64
  ranked = sorted(paths, key=position)
  test = sum(position(p) < config.test_fraction for p in paths)
  valid = sum(position(p) < config.test_fraction + config.valid_fraction for p in paths)
  test = min(max(1, test), len(paths) - 2)
  valid = min(max(test + 1, valid), len(paths) - 1)
  return {'test': sorted(ranked[:test]), 'valid': sorted(ranked[test:valid]),
          'train': sorted(ranked[valid:])}


# Whether they are usable


def load_utterances(paths, config: DataConfig, mel: MelConfig, min_samples: int,
                    keep_pcm: bool = True) -> list[Utterance]:
  """`load_splits` for files of one split."""
  return load_splits({'given': paths}, config, mel, {'given': min_samples},
                     ('given',) if keep_pcm else ())['given']


def load_splits(files: dict, config: DataConfig, mel: MelConfig, min_samples: dict,
                keep_pcm=()) -> dict[str, list[Utterance]]:
  """Opens and checks files in parallel, and reports all bad ones at once.

  Args:
    files: split -> paths of audio files.
    config: `check`, `skip_bad`, `mels` and `cache_mb` are used.
    mel: convention; utterances get its sample rate.
    min_samples: split -> length below which a file is bad.
    keep_pcm: splits whose samples are held in memory if all fit into `cache_mb`.

  Raises:
    InputError: listing every unusable file, unless `config.skip_bad`; or if a
      split has no usable one.
  """
  jobs = [(split, path) for split, paths in files.items() for path in paths]
  size = sum(_decoded_bytes(path, mel) for split, path in jobs if split in keep_pcm)
  kept = keep_pcm if size <= config.cache_mb * 2**20 else ()
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    results = list(pool.map(
        lambda job: _load(job[1], config, mel, min_samples[job[0]], job[0] in kept), jobs))
  problems = [r for r in results if isinstance(r, str)]
  _report(problems, len(jobs), config.skip_bad)
  splits = {split: [r for (s, _), r in zip(jobs, results, strict=True)
                    if s == split and isinstance(r, Utterance)] for split in files}
  for split, utterances in splits.items():
    if not utterances:
      raise InputError(f'none of {len(files[split])} audio files ({split}) is usable:\n'
                       f'{listed(problems)}')
  _warn_of_conversions([u for utterances in splits.values() for u in utterances], mel)
  return splits


def _warn_of_conversions(utterances, mel: MelConfig) -> None:
  other_rate = sum(u.file.sample_rate != mel.sample_rate for u in utterances)
  if other_rate:
    warnings.warn(f'{other_rate} of {len(utterances)} files are resampled to '
                  f'{mel.sample_rate} Hz as they are read.', stacklevel=3)
  stereo = sum(u.file.channels > 1 for u in utterances)
  if stereo:
    warnings.warn(f'{stereo} of {len(utterances)} files have several channels, which '
                  'are averaged.', stacklevel=3)


def _decoded_bytes(path, mel: MelConfig) -> int:
  try:
    file = audio.open_audio(path)
  except InputError:
    return 0  # reported by _load
  return 2 * _samples(file, mel)


def _samples(file: audio.AudioFile, mel: MelConfig) -> int:
  """The length after resampling (soxr rounds half up)."""
  if file.sample_rate == mel.sample_rate:
    return file.frames
  return int(file.frames * mel.sample_rate / file.sample_rate + 0.5)


def _load(path, config: DataConfig, mel: MelConfig, min_samples: int, keep_pcm: bool):
  """An Utterance, or a string that says what is wrong with the file."""
  try:
    file = audio.open_audio(path)
    pcm, digest, signs, samples = None, b'', None, _samples(file, mel)
    if samples < min_samples:
      return (f'{path}: too short: found {samples} samples, expected at least '
              f'{min_samples}; remove it or join it with others.')
    if config.check or keep_pcm:
      pcm = audio.read_audio(path, mel.sample_rate)
      digest, samples = hashlib.blake2b(pcm.tobytes(), digest_size=16).digest(), len(pcm)
      if int(pcm.max()) - int(pcm.min()) <= _SILENT_RANGE:
        return f'{path}: silent (samples within {pcm.min()}..{pcm.max()}); remove it.'
    if config.check:
      signs = fingerprint.fingerprint(pcm, mel.sample_rate)
    mel_FxM = None
    if config.mels == 'paired':
      mel_FxM = read_paired_mel(pathlib.Path(path).with_suffix('.npy'), samples, mel)
  except InputError as error:
    return str(error)
  except Exception as error:  # a damaged file makes readers raise nearly anything
    return f'{path}: cannot be read ({type(error).__name__}: {error}).'
  return Utterance(file, samples, digest, pcm if keep_pcm else None, mel_FxM, signs)


def read_paired_mel(path, samples: int, mel: MelConfig) -> np.ndarray:
  """The .npy mel of an utterance, cut or padded by at most two frames to its length.

  Raises:
    InputError: as `mel_files.read_mel`, or if the lengths disagree by more, as they
      do when mel and config have different hops.
  """
  mel_FxM = mel_files.read_mel(path, mel, slack=mel_files.UNDERSHOOT)
  expected = audio.frame_count(samples, mel)
  if abs(len(mel_FxM) - expected) > 2:
    raise InputError(
        f'{path}: found {len(mel_FxM)} frames for {samples} samples, expected {expected} '
        f'at hop {mel.hop}; was it made with a hop of about '
        f'{samples / max(1, len(mel_FxM)):.0f}?')
  missing = max(0, expected - len(mel_FxM))
  return np.pad(mel_FxM[:expected], ((0, missing), (0, 0)),
                constant_values=audio.mel_floor(mel))


def listed(problems) -> str:
  """Problems as the indented lines of a message."""
  return '\n'.join('  ' + problem for problem in problems)


def _report(problems, total: int, skip_bad: bool) -> None:
  if problems and not skip_bad:
    raise InputError(f'{len(problems)} of {total} audio files are unusable:\n'
                     f'{listed(problems)}\nRepair or remove them, or leave them out with '
                     '--config.data.skip_bad=true.')
  if problems:
    warnings.warn(f'{len(problems)} of {total} audio files are left out:\n'
                  f'{listed(problems)}', stacklevel=3)


def check_disjoint(splits: dict[str, list[Utterance]]) -> None:
  """Raises InputError, naming all of them, if recordings are in more than one split.

  They are compared by content, not by name: the same samples or, for files that were
  checked, the same sound with another gain, other ends or another sample rate.
  """
  same = _same_samples(splits)
  alike = [line for a, b in itertools.combinations(splits, 2)
           for line in _alike(splits, a, b)]
  problems = []
  if same:
    problems.append(f'{len(same)} recordings are in several splits, sample by sample:\n'
                    f'{listed(same)}')
  if alike:
    problems.append(f'{len(alike)} recordings are in two splits but for gain, ends or sample rate '
                    f'(compared unless --config.data.check=false):\n'
                    f'{listed(alike)}')
  if problems:
    raise InputError('\n'.join(problems) + '\nRemove them from one split: the likelihood of '
                     'speech that was trained on measures nothing.')


def _same_samples(splits) -> list[str]:
  """One line for each recording that is in several splits, sample by sample."""
  places = collections.defaultdict(list)
  for split, utterances in splits.items():
    for u in utterances:
      places[u.digest or u.path.resolve()].append((split, u.path))
  return [' = '.join(f'{path} ({split})' for split, path in found)
          for found in places.values() if len({split for split, _ in found}) > 1]


def _alike(splits, a: str, b: str) -> list[str]:
  """One line for each pair of recordings that sound the same but differ in their samples."""
  heard = {split: [u for u in splits[split] if u.fingerprint is not None] for split in (a, b)}
  prints = {split: [u.fingerprint for u in heard[split]] for split in (a, b)}
  pairs = set(fingerprint.find_copies(prints[a], prints[b]))
  # `find_copies` gives only some of many copies: looking from both sides misses no file.
  pairs |= {(i, j) for j, i in fingerprint.find_copies(prints[b], prints[a])}
  return [f'{heard[a][i].path} ({a}) = {heard[b][j].path} ({b})' for i, j in sorted(pairs)
          if heard[a][i].digest != heard[b][j].digest]
