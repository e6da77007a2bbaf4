"""The Colab notebook, from top to bottom: all but the installation, in this checkout."""

import json
import pathlib

import numpy as np

NOTEBOOK = pathlib.Path(__file__).parent.parent / 'experiments' / 'colab' / 'wavernn.ipynb'


def _code_cells():
  for cell in json.loads(NOTEBOOK.read_text())['cells']:
    if cell['cell_type'] == 'code':
      yield ''.join(cell['source']), cell['metadata'].get('tags', [])


def test_it_runs_from_top_to_bottom_and_everything_it_plays_and_shows_is_there(
    tmp_path, monkeypatch, capsys):
  shown = []
  names = {  # what a notebook's display does, which records what it is given here
      'Audio': lambda data, rate=None: ('audio', data, rate),
      'Image': lambda path: ('image', path), 'display': shown.append}
  monkeypatch.chdir(tmp_path)
  for text, tags in _code_cells():
    if 'install' in tags:
      assert 'git clone' in text and 'requirements.txt' in text
      continue
    text = text.replace('from IPython.display import Audio, Image, display\n', '')
    exec(compile(text, str(NOTEBOOK), 'exec'), names)
  assert [kind for kind, *_ in shown] == (
      ['image'] + 3 * ['audio'] + ['audio'] + 2 * ['image'] + 2 * ['audio'])
  for kind, data, *rate in shown:
    if isinstance(data, str):
      assert pathlib.Path(data).stat().st_size > 1_000
    else:
      assert kind == 'audio' and rate == [24_000] and len(np.unique(data)) > 1_000
  assert pathlib.Path(names['model']).stat().st_size > 1_000
  printed = capsys.readouterr().out
  assert 'times real time' in printed and 'nats/sample; linear prediction alone' in printed


def test_no_output_or_address_is_stored_in_it():
  cells = json.loads(NOTEBOOK.read_text())['cells']
  assert all(cell.get('outputs', []) == [] for cell in cells)
  assert "REPOSITORY = ''" in ''.join(line for cell in cells for line in cell['source'])
