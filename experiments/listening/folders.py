"""A report of folders: recordings, and what each system made of the same names."""

import csv
import pathlib
import warnings

from experiments.listening import document
from wavernn_jax import audio
from wavernn_jax.data import corpus
from wavernn_jax.errors import InputError


def read(recordings, systems: list[str], title: str, texts='', most: int = 0) -> document.Report:
  """Pairs files by their path below each folder, without its suffix.

  Args:
    recordings: folder of the originals; their rate is the report's, and what has
      another is resampled.
    systems: of the form NAME=DIR.
    title: of the report.
    texts: TSV with the columns `file` (name or stem) and `text`; or empty.
    most: sentences; 0 for all.

  Raises:
    InputError: if a folder is missing, shares no name with the recordings, or holds
      a file that cannot be read.
  """
  originals = _by_name(recordings)
  made = {name: _by_name(folder) for name, folder in map(_split, systems)}
  if len(made) < len(systems):
    raise InputError(f'--systems={",".join(systems)}: a name stands twice; rename one.')
  for name, paths in made.items():
    if not originals.keys() & paths.keys():
      raise InputError(f'--systems={name}=…: none of its {len(paths)} files has the name of a '
                       f'recording in {recordings}, e.g. {min(originals)!r}.')
  shared = sorted(id for id in originals if any(id in paths for paths in made.values()))
  spoken = _read_texts(texts)
  rate = audio.open_audio(originals[shared[0]]).sample_rate
  sentences = [_sentence(id, originals[id], made, spoken.get(pathlib.Path(id).name, ''), rate)
               for id in shared[:most or None]]
  return document.Report(title, rate, [document.System(name) for name in made], sentences)


def _split(system: str) -> tuple[str, str]:
  name, _, folder = system.partition('=')
  if not name or not folder:
    raise InputError(f'--systems: found {system!r}, expected NAME=DIR.')
  return name, folder


def _by_name(folder) -> dict[str, pathlib.Path]:
  paths = {}
  for path in corpus.find_audio(folder):
    name = path.relative_to(folder).with_suffix('').as_posix()
    if name in paths:
      raise InputError(f'{folder}: found both {paths[name].name} and {path.name}, expected one '
                       f'file called {name!r}; remove one.')
    paths[name] = path
  return paths


def _sentence(id: str, recording, made, text: str, rate: int) -> document.Sentence:
  syntheses = {}
  for name, paths in made.items():
    if id in paths:
      syntheses[name] = audio.read_audio(paths[id], rate)
    else:
      syntheses[name] = 'there is no such file in its folder'
      warnings.warn(f'--systems={name}=…: has no file {id!r}; the page shows a gap.', stacklevel=2)
  return document.Sentence(id, text, audio.read_audio(recording, rate), syntheses)


def _read_texts(path) -> dict[str, str]:
  if not path:
    return {}
  try:
    with open(path, newline='') as file:
      rows = list(csv.DictReader(file, delimiter='\t', quoting=csv.QUOTE_NONE))
    return {pathlib.Path(row['file']).stem: row['text'] or '' for row in rows}
  except OSError as error:
    raise InputError(f'--texts={path}: cannot be read ({error.strerror}).') from error
  except (KeyError, UnicodeDecodeError, TypeError) as error:
    raise InputError(f'--texts={path}: found {error!r}, expected tab-separated values with the '
                     'columns file and text.') from error
