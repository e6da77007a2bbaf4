"""A report as one HTML file: tables, plots, sentences to play, a blind listening test.

  python -m experiments.listening.page --recordings=DIR --systems=NAME=DIR,NAME=DIR \
      --output=report.html

compares any folders of wav or flac files that share their names; `write` takes a
`document.Report` with tables and plots beside them.

The file needs nothing beside it, no network and no server. Audio is WAV, 64 kB a
second at 24 kHz: FLAC would take half of that, but Chromium fails to seek in it.

The page's `data` element is JSON: the manifest, and for each sentence its clips by
name. Clip i is the base64 text of the element `clip-i`.
"""

import base64
import dataclasses
import itertools
import json
import pathlib

from absl import flags
import numpy as np

from experiments import cli
from experiments.listening import document, folders, markup, media
from wavernn_jax import files

_HERE = pathlib.Path(__file__).parent
_SCRIPTS = ('player.js', 'report.js', 'storage.js', 'trials.js', 'exchange.js', 'pages.js',
            'test.js')


def build(report: document.Report, listening_only: bool = False) -> str:
  """The page as text.

  Args:
    report: the one that it belongs to.
    listening_only: leaves the report away, so that listeners cannot look; ratings made
      with this page and with the whole one are of one report.

  Raises:
    InputError: if names are doubled, unknown or missing.
  """
  document.check(report)
  sentences, clips = _number_clips(report)
  data = dataclasses.asdict(document.manifest(report)) | {
      'recording': document.RECORDING, 'sampleRate': report.sample_rate, 'sentences': sentences,
      'listeningOnly': listening_only}
  body = '' if listening_only else markup.report(report, sentences)
  return markup.fill(
      _read('template.html'), title='Blind listening test' if listening_only else report.title,
      style=_read('style.css'), report=body, clips=_clip_elements(clips, report.sample_rate),
      data=_json_element(data), script=''.join(map(_read, _SCRIPTS)))


def write(report: document.Report, path, listening_only: bool = False) -> None:
  """Writes the page of `build` under its name at once."""
  files.write_text(path, build(report, listening_only))


def _number_clips(report: document.Report) -> tuple[list[dict], list[np.ndarray]]:
  sentences, clips = [], []
  names = [system.name for system in report.systems]
  for sentence in report.sentences:
    own = document.clips_of(sentence, names)
    sentences.append({'id': sentence.id, 'text': sentence.text,
                      'clips': dict(zip(own, itertools.count(len(clips)), strict=False))})
    clips += own.values()
  return sentences, clips


def _clip_elements(clips, sample_rate: int) -> str:
  return '\n'.join(
      f'<script type="text/plain" id="clip-{i}">'
      f'{base64.b64encode(media.wav(pcm, sample_rate)).decode()}</script>'
      for i, pcm in enumerate(clips))


def _json_element(data) -> str:
  text = json.dumps(data).replace('<', '\\u003c')  # nothing in it may end the element
  return f'<script type="application/json" id="data">{text}</script>'


def _read(name: str) -> str:
  return (_HERE / name).read_text()


def main() -> None:
  values = flags.FLAGS
  report = folders.read(values.recordings, values.systems, values.title, values.texts,
                        values.sentences)
  write(report, values.output, values.listening_only)
  size = pathlib.Path(values.output).stat().st_size
  print(json.dumps({'output': values.output, 'bytes': size,
                    'sentences': len(report.sentences), 'systems': len(report.systems)}))


if __name__ == '__main__':  # as a library it leaves the flags to others
  flags.DEFINE_string('recordings', None, 'Folder of the original recordings.', required=True)
  flags.DEFINE_list('systems', None, 'NAME=DIR,NAME=DIR: folders with the same file names.',
                    required=True)
  flags.DEFINE_string('output', None, 'HTML file to write.', required=True)
  flags.DEFINE_string('title', 'Listening report', 'Title of the page.')
  flags.DEFINE_string('texts', '', 'Tab-separated table with the columns file and text.')
  flags.DEFINE_integer('sentences', 0, 'Largest number of sentences, sorted by name; 0: all.', 0)
  flags.DEFINE_bool('listening_only', False, 'Write the listening test without the report.')
  cli.run(main)
