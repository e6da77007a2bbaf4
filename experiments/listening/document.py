"""What a report holds: tables, plots, systems and the sentences they all speak."""

import dataclasses
import hashlib
import itertools
import json
import pathlib
import re

import numpy as np

from wavernn_jax.config import MelConfig
from wavernn_jax.errors import InputError

RECORDING = 'recording'  # the name of what the systems are compared with
_DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Table:
  """Cells are numbers, None, or strings, which may say why a figure is missing."""

  title: str
  columns: list[str]
  rows: list[list]
  note: str = ''


@dataclasses.dataclass(frozen=True)
class Plot:
  """A picture with its caption."""

  title: str
  png: bytes
  note: str = ''


@dataclasses.dataclass(frozen=True)
class System:
  """A system: a name of its own, and what it is."""

  name: str
  description: str = ''


@dataclasses.dataclass(frozen=True)
class Sentence:
  """Audio of one utterance, int16.

  Attributes:
    id: tells it from all others.
    text: what is said; may be empty.
    recording: samples of the original.
    syntheses: system -> its samples, or a string that says why there are none.
  """

  id: str
  text: str
  recording: np.ndarray
  syntheses: dict


@dataclasses.dataclass(frozen=True)
class Report:
  """What a page shows.

  Attributes:
    title: of the page.
    sample_rate: of all audio, Hz.
    systems: in the order of the page.
    sentences: in the order of the page.
    tables, plots: shown above the sentences.
    note: a paragraph under the title.
    pairs: of systems that the A/B test compares; None: every pair.
    mel: convention of the spectrograms; None: 80 bands up to half the sample rate.
  """

  title: str
  sample_rate: int
  systems: list[System]
  sentences: list[Sentence]
  tables: list[Table] = ()
  plots: list[Plot] = ()
  note: str = ''
  pairs: list[tuple[str, str]] | None = None
  mel: MelConfig | None = None


@dataclasses.dataclass(frozen=True)
class Manifest:
  """The part of a report that ratings are checked against.

  Attributes:
    identity: depends on the audio and its names alone, not on what tables say.
    title: of the page.
    systems: their names; `RECORDING` is rated beside them.
    pairs: that the A/B test compares, each in the order of `systems`.
    sentences: id -> names of its clips.
  """

  identity: str
  title: str
  systems: list[str]
  pairs: list[tuple[str, str]]
  sentences: dict[str, list[str]]


def manifest(report: Report) -> Manifest:
  """What `read_manifest` finds in the report's page."""
  names = [system.name for system in report.systems]
  pairs = report.pairs
  if pairs is None:
    pairs = list(itertools.combinations(names, 2))
  pairs = [tuple(sorted(pair, key=names.index)) for pair in pairs]
  return Manifest(_identity(report, names, pairs), report.title, names, pairs, {
      sentence.id: list(clips_of(sentence, names)) for sentence in report.sentences})


def read_manifest(path) -> Manifest:
  """The manifest of a page.

  Raises:
    InputError: if page.py has not written the file.
  """
  try:
    text = pathlib.Path(path).read_text()
    data = json.loads(_DATA.search(text)[1])
    return Manifest(data['identity'], data['title'], data['systems'],
                    [tuple(pair) for pair in data['pairs']],
                    {s['id']: list(s['clips']) for s in data['sentences']})
  except OSError as error:
    raise InputError(f'{path}: cannot be read ({error.strerror}); give the HTML file of the '
                     'report that was listened to.') from error
  except (LookupError, TypeError, ValueError) as error:
    raise InputError(f'{path}: found no report in it, expected an HTML file that '
                     'experiments.listening has written.') from error


def check(report: Report) -> None:
  """Raises InputError, naming what is doubled, unknown or missing."""
  names, ids = [s.name for s in report.systems], [s.id for s in report.sentences]
  for what, values in (('systems', names), ('sentences', ids)):
    doubled = sorted({v for v in values if values.count(v) > 1})
    if doubled or not values or '' in values:
      raise InputError(f'report {report.title!r}: found the {what} {values}, expected at least '
                       f'one and no name twice or empty; rename {doubled or values}.')
  if RECORDING in names:
    raise InputError(f'report {report.title!r}: a system is called {RECORDING!r}, which is the '
                     'name of the original; rename it.')
  mentioned = {name for s in report.sentences for name in s.syntheses}
  mentioned |= {name for pair in report.pairs or () for name in pair}
  if not mentioned <= set(names):
    raise InputError(f'report {report.title!r}: found {sorted(mentioned - set(names))}, expected '
                     f'names of systems: {names}.')
  if any(a == b for a, b in report.pairs or ()):
    raise InputError(f'report {report.title!r}: a pair compares a system with itself.')
  for table in report.tables:
    if any(len(row) != len(table.columns) for row in table.rows):
      raise InputError(f'table {table.title!r}: found rows of {sorted(set(map(len, table.rows)))} '
                       f'cells, expected {len(table.columns)} as it has columns.')
  if report.mel and report.mel.sample_rate != report.sample_rate:
    raise InputError(f'report {report.title!r}: found audio of {report.sample_rate} Hz and a mel '
                     f'convention of {report.mel.sample_rate} Hz; resample the audio.')


def _identity(report: Report, names, pairs) -> str:
  digest = hashlib.blake2b(digest_size=16)
  digest.update(json.dumps([report.sample_rate, names, pairs]).encode())
  for sentence in report.sentences:
    for name, pcm in clips_of(sentence, names).items():
      digest.update(json.dumps([sentence.id, name, len(pcm)]).encode())
      digest.update(np.ascontiguousarray(pcm, '<i2').tobytes())
  return digest.hexdigest()


def clips_of(sentence: Sentence, names) -> dict[str, np.ndarray]:
  """Audio by name: the recording, then that of each system which has some, in their order."""
  clips = {RECORDING: sentence.recording}
  clips |= {name: sentence.syntheses[name] for name in names
            if not isinstance(sentence.syntheses.get(name, ''), str)}
  return clips
