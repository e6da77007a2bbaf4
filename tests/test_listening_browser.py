"""The report's page in a real headless Chromium: play, rate, reload, export, import."""

import io
import json

import browser as browser_lib
import numpy as np
from PIL import Image
import pytest

from experiments.listening import document, page, ratings

pytestmark = pytest.mark.skipif(bool(browser_lib.missing()), reason=browser_lib.missing())

RATE = 8_000
SECONDS = 1.5
NAMES = ['alpha-net', 'beta-net']
VALUE = "Number(document.querySelector('[aria-pressed=true]')?.dataset.value ?? NaN)"


@pytest.fixture(scope='module')
def report(speech):
  table = document.Table('T', ['system', 'nll'], [
      ['c', 'run failed'], ['b', '10.5 [10, 11]'], ['a', 9.25], ['d', 100]])
  return document.Report(
      'Alpha-net against beta-net', RATE, [document.System(name) for name in NAMES],
      [document.Sentence(f's{i}', f'Sentence {i}.', speech(SECONDS, RATE, i), {
          name: speech(SECONDS, RATE, 10 * (i + 1) + j) for j, name in enumerate(NAMES)})
       for i in range(2)], [table])


@pytest.fixture(scope='module')
def path(report, tmp_path_factory):
  path = tmp_path_factory.mktemp('page') / 'report.html'
  page.write(report, path)
  return path


@pytest.fixture(scope='module')
def window(tmp_path_factory):
  with browser_lib.start(tmp_path_factory.mktemp('chromium')) as window:
    yield window


@pytest.fixture
def opened(window, path):
  """The report in a browser that remembers nothing of it."""
  window.resize(1_100, 900)
  window.open(path)
  window.script("localStorage.clear(); window.name = ''")
  window.open(path)
  return window


@pytest.fixture
def test_page(opened):
  opened.click('a[href="#test"]')
  opened.wait("document.querySelector('#start')")
  return opened


def _visible(window) -> str:
  """All that the page holds outside scripts and styles, attributes too."""
  return window.script('''
    const body = document.documentElement.cloneNode(true);
    body.querySelectorAll('script, style').forEach(element => element.remove());
    return body.outerHTML.toLowerCase();''')


def _position(window) -> str:
  return window.script("return document.querySelector('#position')?.textContent ?? ''")


def _rate_all(window) -> dict:
  """Rates by keyboard what is left; returns {(clips): value as heard}. Clips are numbers."""
  given = {}
  window.script('''
    window.heard = [];  // what really was given to the loudspeaker
    player.audio.addEventListener('play', () => heard.push(
      [...player.urls].find(([, url]) => url === player.audio.src)[0]));''')
  while position := _position(window):
    clips = []
    for key in 'ab' if window.script('return shown.players.length === 2') else ' ':
      window.press(key)
      clips.append(window.wait('heard.length > 0 && [heard.pop()]')[0])
    if len(clips) == 1:
      value = 1 + clips[0] % 5
      window.press(str(value))
    else:
      value = (clips[0] > clips[1]) - (clips[0] < clips[1])  # the lower number is better
      window.press(str(value + 4))
    assert window.script(f'return {VALUE}') == value
    given[tuple(clips)] = value
    window.press('Enter')
    assert _position(window) != position
  return given


def test_audio_in_the_browser_is_that_of_the_report_to_the_sample(opened, report):
  for sentence, numbered in zip(report.sentences, opened.script('return DATA.sentences'),
                                strict=True):
    clips = document.clips_of(sentence, NAMES)
    assert set(numbered['clips']) == set(clips)
    for name, number in numbered['clips'].items():
      pcm = opened.script('''
        const bytes = Uint8Array.from(
          atob(document.getElementById(`clip-${arguments[0]}`).textContent), c => c.charCodeAt(0));
        return new OfflineAudioContext(1, 1, arguments[1]).decodeAudioData(bytes.buffer).then(
          audio => [...audio.getChannelData(0)]);''', number, RATE)
      pcm = np.where(np.less(pcm, 0), 32_768, 32_767) * pcm  # Chromium's full scale is 1
      np.testing.assert_allclose(pcm, clips[name], rtol=0, atol=0.01)


def test_report_plays_shows_where_and_switches_at_the_same_moment(opened):
  assert opened.script("return performance.getEntriesByType('resource').filter("
                       "entry => !entry.name.startsWith('data:')).length") == 0
  opened.click('[data-clip="0"] .play')
  # Within the page: on a busy machine the clip could end between two calls from here.
  cursor, before, after = opened.script('''
    const frame = () => new Promise(requestAnimationFrame);
    return (async () => {
      while (!(player.audio.currentTime > 0.3)) await frame();
      await frame();
      const cursor = parseFloat(document.querySelector('.playing .cursor').style.left);
      const before = player.audio.currentTime;
      document.querySelector('[data-clip="1"] .play').click();
      await new Promise(resolve => player.audio.onseeked = resolve);
      return [cursor, before, player.audio.currentTime];
    })();''')
  assert cursor / 100 * SECONDS == pytest.approx(before, abs=0.25)
  assert 0 <= after - before < 0.25
  opened.wait('player.clip === null')  # its end
  assert opened.script("return document.querySelectorAll('.playing').length") == 0
  opened.script('''
    const strip = document.querySelector('[data-clip="4"] .strip');
    const {left, width, top} = strip.getBoundingClientRect();
    strip.dispatchEvent(new MouseEvent('click', {clientX: left + width / 2, clientY: top + 5}));''')
  assert opened.wait('player.audio.src === player.url(4) && player.audio.currentTime > 0 && '
                     'player.audio.currentTime') >= 0.49 * SECONDS


def test_tables_sort_by_mouse_and_keyboard_with_gaps_last(opened):
  def order():
    return ''.join(opened.script("return [...document.querySelectorAll('tbody td:first-child')]"
                                 '.map(cell => cell.textContent)'))
  assert order() == 'cbad'
  opened.click('th:nth-child(2) button')
  assert order() == 'abdc'
  assert opened.script("return document.querySelector('th:nth-child(2)').ariaSort") == 'ascending'
  opened.press('Enter')  # the button has the focus
  assert order() == 'dbac'
  opened.click('th:nth-child(1) button')
  assert order() == 'abcd'
  assert opened.script("return document.querySelectorAll('[aria-sort]').length") == 1


def test_systems_can_be_hidden(opened):
  opened.click('#shown input[value="1"]')
  assert opened.script('''return [...document.querySelectorAll('.version[data-system]')].map(
    row => [row.dataset.system, row.hidden])''') == [['0', False], ['1', True]] * 2


def test_a_listener_rates_blindly_by_keyboard_and_saves(test_page, report, path):
  window = test_page
  window.script("document.querySelector('#listener').value = ''")
  window.enter('#listener', 'Ann O.')
  window.click('#start')
  assert not any(name in _visible(window) for name in NAMES)
  window.press('4')  # before listening: nothing
  assert window.script('return [Object.keys(state.ratings).length, '
                       'document.querySelector("#next").disabled]') == [0, True]
  window.press(' ')
  window.wait('player.audio.currentTime > 0')
  window.press('2', '3')  # the last one counts
  assert window.script(f'return {VALUE}') == 3
  window.press('ArrowRight')
  assert _position(window) == '2 / 8'
  window.press('ArrowLeft')
  assert _position(window) == '1 / 8' and window.script(f'return {VALUE}') == 3
  given = _rate_all(window)
  assert len(given) == 8  # 2 sentences x (recording and 2 systems), 2 sentences x 1 pair
  assert all(name in _visible(window) for name in NAMES)  # now they are told
  window.press('ArrowLeft')
  assert not _position(window)  # and nothing changes any more
  for button in ('json', 'mos', 'ab'):
    window.click(f'#save-{button}')
  saved = window.downloaded('ratings-Ann_O*.json')
  _check_saved(json.loads(saved.read_text()), given, report)
  summary = ratings.summarise([saved], document.read_manifest(path))
  assert not summary.problems
  tables = [window.downloaded('lss-*.csv'), window.downloaded('paired_comparison-*.csv')]
  assert ratings.summarise(tables, document.read_manifest(path)) == summary
  assert [m.mean for m in summary.mos] == [  # clip 3 i + j is version j of sentence i
      np.mean([1 + (3 * i + j) % 5 for i in range(2)]) for j in range(3)]
  (pair,) = summary.ab
  assert pair.names == tuple(NAMES) and pair.mean == -1  # clips of the first are the lower
  for name in saved, *tables:
    name.unlink()


def _check_saved(saved, given, report):
  assert saved['schema'] == 'wavernn-listening-ratings' and saved['listener'] == 'Ann O.'
  assert saved['report'] == document.manifest(report).identity
  assert saved['created'] < saved['finished'] < saved['exported']
  clips = {(f's{i}', name): 3 * i + j for i in range(2)
           for j, name in enumerate(['recording', *NAMES])}
  assert {tuple(clips[r['sentence'], name] for name in r['names']): r['value']
          for r in saved['ratings']} == given
  for rating in saved['ratings']:
    assert all(times >= 1 for times in rating['plays']) and rating['milliseconds'] >= 0
    assert saved['created'] < rating['time'] < saved['finished']


def test_progress_and_order_are_kept_by_a_reload(test_page):
  window = test_page
  order = window.script('return trials.map(trial => trial.clips)')
  window.click('#start')
  window.click('.play')
  window.wait('player.audio.currentTime > 0')
  window.click('[data-value="2"]')
  window.click('#next')
  for again in (window.reload, lambda: window.open(window.script('return location.href'))):
    again()
    assert window.script('return trials.map(trial => trial.clips)') == order
    assert _position(window) == '2 / 8'
    window.press('ArrowLeft')
    assert window.script(f'return {VALUE}') == 2
    window.press('ArrowRight')
  others = window.script('return [1, 2, 3, 4].map(seed => makeTrials(seed).map(t => t.clips))')
  assert len({json.dumps(x) for x in [order, *others]}) == 5
  for other in [order, *others]:  # all of MOS, then all of A/B, whichever side is A
    assert sorted(clip for clips in other[:6] for clip in clips) == [0, 1, 2, 3, 4, 5]
    assert sorted(sorted(clips) for clips in other[6:]) == [[1, 2], [4, 5]]
  sides = [clips[0] < clips[1] for other in others for clips in other[6:]]
  assert 0 < sum(sides) < len(sides)


def test_saved_ratings_go_on_elsewhere_and_others_are_refused(test_page, tmp_path):
  window = test_page
  order = window.script('return trials.map(trial => trial.clips)')
  window.click('#start')
  window.press(' ')
  window.wait('player.audio.currentTime > 0')
  window.press('5', 'Enter')
  window.click('summary')
  window.click('#save-json')
  saved = window.downloaded('ratings-listener*.json')
  content = json.loads(saved.read_text())
  window.script("localStorage.clear(); window.name = ''")
  window.reload()
  assert window.script('return Object.keys(state.ratings).length') == 0
  bad = tmp_path / 'bad.json'
  for changes, message in (
      ({'report': 'x'}, 'of another report'), ({'schema': 'y'}, 'no ratings'),
      ({'seed': None}, 'its seed'), ({'ratings': [7]}, 'rating 1 is malformed'),
      ({'ratings': content['ratings'] * 2}, 'rating 2 is there twice')):
    bad.write_text(json.dumps(content | changes))
    window.enter('#load', str(bad))
    notice = window.wait("document.querySelector('.notice')?.textContent")
    assert notice.startswith('bad.json was not taken over') and message in notice
    assert window.script('return Object.keys(state.ratings).length') == 0
    window.script('problem = ""; render()')
  window.enter('#load', str(saved))
  window.wait('Object.keys(state.ratings).length === 1')
  assert window.script('return trials.map(trial => trial.clips)') == order
  assert window.script('return [state.listener, state.seed]') == [
      content['listener'], content['seed']]
  window.click('#start')
  assert _position(window) == '2 / 8'
  window.press('ArrowLeft')
  assert window.script(f'return {VALUE}') == 5
  saved.unlink()


def test_a_page_that_may_store_nothing_says_so(window, path):
  outer = path.with_name('outer.html')
  outer.write_text('<iframe sandbox="allow-scripts" src="report.html#test" width=900 height=700>')
  window.open(outer)
  window.frame('iframe')
  window.wait("document.querySelector('#start')")
  with pytest.raises(AssertionError, match='sandboxed'):
    window.script('return localStorage.length')
  assert 'keeps no data' in window.script("return document.querySelector('.notice').textContent")
  window.click('#start')
  window.click('.play')
  window.click('[data-value="4"]')
  assert window.script(f'return {VALUE}') == 4
  window.frame(None)


def test_without_storage_progress_outlives_a_reload(test_page):
  window = test_page
  forbid = window.devtools('Page.addScriptToEvaluateOnNewDocument', source='''
    Object.defineProperty(window, 'localStorage', {
      get() { throw new DOMException('Access is denied.', 'SecurityError'); }});''')
  try:
    window.reload()
    order = window.script('return trials.map(trial => trial.clips)')
    window.click('#start')
    window.click('.play')
    window.click('[data-value="4"]')
    window.reload()
    assert _position(window) == '1 / 8' and window.script(f'return {VALUE}') == 4
    assert window.script('return trials.map(trial => trial.clips)') == order
    assert 'keeps no data' in window.script("return document.querySelector('.notice').textContent")
  finally:
    window.devtools('Page.removeScriptToEvaluateOnNewDocument', **forbid)


@pytest.mark.parametrize('view', ['#report', '#test', 'trial'])
def test_a_phone_shows_all_of_the_width(opened, path, view):
  opened.resize(390, 844, 2)
  opened.open(f'file://{path}{"#test" if view == "trial" else view}')
  if view == 'trial':
    opened.click('#start')
  assert opened.script('return [innerWidth, document.documentElement.scrollWidth]') == [390, 390]
  small = opened.script('''return [...document.querySelectorAll('button, a.action')].filter(
    x => x.getBoundingClientRect().height < 40 || x.getBoundingClientRect().right > 390).map(
    x => x.textContent)''')
  assert small == []
  picture = Image.open(io.BytesIO(opened.screenshot())).convert('L')
  assert picture.size == (780, 1688)
  assert np.asarray(picture).std() > 10  # something to see
