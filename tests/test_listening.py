"""The report's page: its audio, pictures, tables and identity."""

import base64
import dataclasses
import html
import io
import json
import re
import subprocess
import sys

import numpy as np
from PIL import Image
import processes
import pytest
import soundfile

from experiments.listening import document, folders, media, page, tables
from wavernn_jax import audio
from wavernn_jax.errors import InputError
from wavernn_jax.evaluation import pictures

RATE = 8_000


@pytest.fixture(scope='module')
def report(speech):
  """Two systems, the second without the second sentence."""
  pcm = [speech(0.5, RATE, seed) for seed in range(5)]
  return document.Report(
      'A <b>title</b> & more', RATE, [document.System('one', 'the first'), document.System('two')],
      [document.Sentence('s0', 'What is </script> said?', pcm[0],
                         {'one': pcm[1], 'two': pcm[2][:3_000]}),
       document.Sentence('s1', '', pcm[3], {'one': pcm[4], 'two': 'its run failed'})],
      [document.Table('T', ['name', 'n'], [['x', 2], ['<y>', '10.5 [10, 11]'], ['z', None]])],
      note='A note.')


@pytest.fixture(scope='module')
def text(report):
  return page.build(report)


def _clip(text: str, number: int) -> bytes:
  found = re.search(rf'<script type="text/plain" id="clip-{number}">([^<]*)</script>', text)
  return base64.b64decode(found[1])


def _data(text: str) -> dict:
  return json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])


def test_audio_of_the_page_is_that_of_the_report_to_the_sample(report, text):
  for sentence, numbered in zip(report.sentences, _data(text)['sentences'], strict=True):
    expected = {'recording': sentence.recording} | {
        name: pcm for name, pcm in sentence.syntheses.items() if not isinstance(pcm, str)}
    assert list(numbered['clips']) == list(expected)
    for name, number in numbered['clips'].items():
      pcm, rate = soundfile.read(io.BytesIO(_clip(text, number)), dtype='int16')
      assert rate == RATE
      np.testing.assert_array_equal(pcm, expected[name])


def test_page_is_one_file_that_escapes_what_it_shows(text):
  assert not re.search(r'(?:src|href)="(?!data:image/png;base64,|#)', text)
  assert '<h1>A &lt;b&gt;title&lt;/b&gt; &amp; more</h1>' in text
  assert html.escape('What is </script> said?') in text and '&lt;y&gt;' in text
  assert _data(text)['sentences'][0]['text'] == 'What is </script> said?'


def test_a_missing_synthesis_is_a_gap_with_its_reason(text):
  assert text.count('its run failed') == 1
  assert re.search(r'class="version gap" data-system="1">.*?missing: its run failed', text)
  assert 'two' not in _data(text)['sentences'][1]['clips']


def test_manifest_of_the_page_is_the_report_s(report, text, tmp_path):
  path = tmp_path / 'report.html'
  page.write(report, path)
  assert path.read_text() == text
  manifest = document.read_manifest(path)
  assert manifest == document.manifest(report)
  assert manifest.pairs == [('one', 'two')]
  assert manifest.sentences == {'s0': ['recording', 'one', 'two'], 's1': ['recording', 'one']}


def test_identity_is_that_of_audio_and_names_alone(report):
  def identity(**changes):
    return document.manifest(dataclasses.replace(report, **changes)).identity
  assert identity(title='x', tables=[], note='', mel=media.display_mel(RATE)) == identity()
  changed = report.sentences[0].recording.copy()
  changed[7] += 1
  others = [
      {'sample_rate': 16_000}, {'sentences': report.sentences[:1]}, {'pairs': []},
      {'sentences': [dataclasses.replace(report.sentences[0], recording=changed),
                     report.sentences[1]]},
      {'sentences': [dataclasses.replace(report.sentences[0], id='t'), report.sentences[1]]},
      {'sentences': [dataclasses.replace(report.sentences[0], syntheses={
          'one': report.sentences[0].syntheses['two'],
          'two': report.sentences[0].syntheses['one']}), report.sentences[1]]}]
  assert len({identity(), *(identity(**other) for other in others)}) == 1 + len(others)


def test_the_page_for_listeners_alone_has_the_test_and_not_the_report(report, text):
  alone = page.build(report, listening_only=True)
  assert _data(alone)['identity'] == _data(text)['identity']
  assert 'Spectrogram of' in text and 'Spectrogram of' not in alone
  assert 'A &lt;b&gt;title' not in alone and _clip(alone, 4) == _clip(text, 4)


def test_strips_have_one_colour_scale_and_one_time_axis(report):
  mel = media.display_mel(RATE)
  clips = document.clips_of(report.sentences[0], ['one', 'two'])
  strips = media.strips(clips, mel)
  assert [share for _, share in strips.values()] == [1, 1, 3_000 / 4_000]
  log_mels = {name: audio.utterance_log_mel(pcm, mel) for name, pcm in clips.items()}
  low, high = np.percentile(np.concatenate([x.ravel() for x in log_mels.values()]), [1, 99.9])
  assert pictures.colour_limits(*log_mels.values()) == (low, high)
  for name, (png, _) in strips.items():
    image = Image.open(io.BytesIO(png))
    index_MxF = np.rint(255 * np.clip((log_mels[name].T[::-1] - low) / (high - low), 0, 1))
    np.testing.assert_array_equal(np.asarray(image), index_MxF)
    lowest, highest = np.array(image.getpalette()).reshape(-1, 3)[[0, 255]]
    assert tuple(lowest) == (0, 0, 3) and tuple(highest) == (251, 252, 191)  # magma's ends


@pytest.mark.parametrize('cell, value, shown', [
    (3, 3.0, '3'), (12_345, 12_345.0, '12,345'), (0.12345, 0.12345, '0.123'),
    (12_345.6, 12_345.6, '12,346'), ('6.058 [6.002, 6.113]', 6.058, '6.058 [6.002, 6.113]'),
    ('−0.2 nats', -0.2, '−0.2 nats'), ('1,234×', 1234.0, '1,234×'), ('1e-3', 0.001, '1e-3'),
    ('2026-11-24', None, '2026-11-24'), ('16x1', None, '16x1'), ('no GPU', None, 'no GPU'),
    (None, None, '—'), (float('nan'), None, '—'), ('', None, '')])
def test_cells_sort_by_the_number_they_begin_with(cell, value, shown):
  assert tables.sort_value(cell) == value
  assert tables.cell_text(cell) == shown


@pytest.mark.parametrize('changes, message', [
    ({'systems': [document.System('one'), document.System('one')]}, 'no name twice'),
    ({'systems': [document.System('recording')]}, 'name of the original'),
    ({'systems': [document.System('one')]}, r"found \['two'\]"),
    ({'systems': []}, 'at least one'),
    ({'sentences': []}, 'at least one'),
    ({'pairs': [('one', 'one')]}, 'with itself'),
    ({'pairs': [('one', 'three')]}, r"found \['three'\]"),
    ({'tables': [document.Table('T', ['a', 'b'], [[1]])]}, r"table 'T'.*expected 2"),
    ({'mel': media.display_mel(16_000)}, '16000 Hz'),
])
def test_a_report_that_cannot_be_shown_is_refused(report, changes, message):
  with pytest.raises(InputError, match=message):
    page.build(dataclasses.replace(report, **changes))


def test_a_file_that_is_no_report_is_refused(tmp_path):
  other = tmp_path / 'other.html'
  other.write_text('<html></html>')
  for path, message in ((other, 'found no report'), (tmp_path / 'none.html', 'cannot be read')):
    with pytest.raises(InputError, match=f'{path.name}.*{message}'):
      document.read_manifest(path)


@pytest.fixture
def recordings(tmp_path, speech):
  """Folders: the recordings x and sub/y at 8 kHz; `a` has both, `b` x at 16 kHz alone."""
  def write(name, rate, seed):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, speech(0.4, rate, seed), rate, 'PCM_16')
  for seed, name in enumerate(('rec/x.flac', 'rec/sub/y.flac', 'rec/z.flac', 'a/x.wav',
                               'a/sub/y.wav')):
    write(name, RATE, seed)
  write('b/x.wav', 2 * RATE, 9)
  (tmp_path / 'texts.tsv').write_text('file\ttext\nx\tHe said "so".\ny.wav\tAnd she.\n')
  return tmp_path


def test_folders_are_paired_by_name(recordings, speech):
  with pytest.warns(UserWarning, match="b=….*no file 'sub/y'"):
    report = folders.read(recordings / 'rec', [f'a={recordings}/a', f'b={recordings}/b'], 'T',
                          recordings / 'texts.tsv')
  assert [(s.id, s.text) for s in report.sentences] == [
      ('sub/y', 'And she.'), ('x', 'He said "so".')]
  y, x = report.sentences
  np.testing.assert_array_equal(x.recording, speech(0.4, RATE, 0))
  np.testing.assert_array_equal(y.syntheses['a'], speech(0.4, RATE, 4))
  assert y.syntheses['b'] == 'there is no such file in its folder'
  np.testing.assert_array_equal(
      x.syntheses['b'], audio.read_audio(recordings / 'b/x.wav', RATE))  # resampled


@pytest.mark.parametrize('systems, message', [
    (['a'], "found 'a', expected NAME=DIR"), (['a={}/none'], 'no such folder'),
    (['a={}/a', 'a={}/b'], 'stands twice'), (['a={}/a', 'c={}/other'], 'none of its 1 files'),
    (['a={}/twice'], "found both x.flac and x.wav, expected one file called 'x'")])
def test_folders_that_do_not_fit_are_refused(recordings, speech, systems, message):
  (recordings / 'other').mkdir()
  (recordings / 'twice').mkdir()
  for name in ('other/w.wav', 'twice/x.wav', 'twice/x.flac'):
    soundfile.write(recordings / name, speech(0.1), RATE)
  with pytest.raises(InputError, match=message):
    folders.read(recordings / 'rec', [s.format(recordings) for s in systems], 'T')


def test_the_command_writes_the_page(recordings):
  done = subprocess.run(
      [sys.executable, '-m', 'experiments.listening.page', f'--recordings={recordings}/rec',
       f'--systems=a={recordings}/a', f'--output={recordings}/out.html', '--sentences=1'],
      cwd=processes.ROOT, text=True, env=processes.environment(), capture_output=True, check=False)
  assert done.returncode == 0, done.stderr
  assert json.loads(done.stdout.splitlines()[-1])['sentences'] == 1
  assert list(document.read_manifest(recordings / 'out.html').sentences) == ['sub/y']
