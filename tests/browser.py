"""A headless Chromium for tests, driven over W3C WebDriver with the standard library."""

import base64
import contextlib
import json
import pathlib
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request

SECONDS = 30  # for anything to happen on a busy machine
_FLAGS = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
          '--disable-background-networking', '--disable-component-update', '--disable-sync',
          '--disable-dev-shm-usage', '--mute-audio']
_ELEMENT = 'element-6066-11e4-a52e-4f735466cecf'  # the key of a reference, by the standard
KEYS = {'Enter': '\ue007', 'ArrowLeft': '\ue012', 'ArrowRight': '\ue014', 'Tab': '\ue004'}


def missing() -> str:
  """Why there is no browser to test with; empty if there is one."""
  absent = [name for name in ('chromium', 'chromedriver') if not shutil.which(name)]
  return f'{" and ".join(absent)} not installed (apt-get install chromium chromium-driver)' * (
      len(absent) > 0)


class Browser:
  """One window. `script` runs JavaScript in it, as the body of a function."""

  def __init__(self, session: str, downloads: pathlib.Path):
    self._session, self._downloads = session, downloads

  def call(self, method: str, path: str, **body):
    return _request(method, self._session + path, body if method == 'POST' else None)

  def open(self, path) -> None:
    # Only another path or query loads a page anew; a fragment alone would not.
    self.call('POST', '/url', url='about:blank')
    self.call('POST', '/url', url=str(path) if '://' in str(path) else f'file://{path}')

  def reload(self) -> None:
    self.call('POST', '/refresh')

  def script(self, body: str, *arguments):
    return self.call('POST', '/execute/sync', script=body, args=list(arguments))

  def wait(self, condition: str, *arguments):
    """The first true value of a JavaScript expression."""
    end = time.monotonic() + SECONDS
    while not (value := self.script(f'return {condition}', *arguments)):
      assert time.monotonic() < end, f'never true: {condition}'
      time.sleep(0.02)
    return value

  def find(self, css: str) -> str:
    return self.call('POST', '/element', using='css selector', value=css)[_ELEMENT]

  def click(self, css: str) -> None:
    """A click where the element is, as a mouse makes it."""
    self.call('POST', f'/element/{self.find(css)}/click')

  def press(self, *keys: str) -> None:
    actions = [{'type': kind, 'value': KEYS.get(key, key)}
               for key in keys for kind in ('keyDown', 'keyUp')]
    self.call('POST', '/actions', actions=[{'type': 'key', 'id': 'keys', 'actions': actions}])

  def enter(self, css: str, text: str) -> None:
    """Types into a field, or chooses the file of that path."""
    element = self.find(css)
    self.call('POST', f'/element/{element}/value', text=text)

  def frame(self, css: str | None) -> None:
    """Goes into a frame; None: out of all."""
    self.call('POST', '/frame', id=css and {_ELEMENT: self.find(css)})

  def resize(self, width: int, height: int, scale: float = 1) -> None:
    """The page as on a screen of that size; scale: device pixels of one."""
    self.devtools('Emulation.setDeviceMetricsOverride', width=width, height=height,
                  deviceScaleFactor=scale, mobile=width < 600)

  def devtools(self, command: str, **parameters):
    """A command of the DevTools protocol, for what WebDriver has none."""
    return self.call('POST', '/goog/cdp/execute', cmd=command, params=parameters)

  def screenshot(self) -> bytes:
    return base64.b64decode(self.call('GET', '/screenshot'))

  def downloaded(self, pattern: str) -> pathlib.Path:
    """The one finished download of that name, once it is there."""
    end = time.monotonic() + SECONDS
    while not (found := list(self._downloads.glob(pattern))):
      assert time.monotonic() < end, f'no {pattern} among {list(self._downloads.iterdir())}'
      time.sleep(0.02)
    (path,) = found
    return path


@contextlib.contextmanager
def start(folder: pathlib.Path):
  """A Browser with a profile of its own below `folder`, closed at the end."""
  downloads = folder / 'downloads'
  downloads.mkdir(parents=True)
  with socket.socket() as s:
    s.bind(('localhost', 0))
    port = s.getsockname()[1]
  driver = subprocess.Popen([shutil.which('chromedriver'), f'--port={port}'],
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
  root = f'http://localhost:{port}'
  try:
    _wait_until_ready(root)
    options = {'binary': shutil.which('chromium'),
               'args': [*_FLAGS, f'--user-data-dir={folder / "profile"}'],
               'prefs': {'download.default_directory': str(downloads)}}
    session = _request('POST', f'{root}/session', {
        'capabilities': {'alwaysMatch': {'goog:chromeOptions': options}}})['sessionId']
    try:
      yield Browser(f'{root}/session/{session}', downloads)
    finally:
      _request('DELETE', f'{root}/session/{session}')
  finally:
    driver.terminate()
    driver.wait()


def _wait_until_ready(root: str) -> None:
  end = time.monotonic() + SECONDS
  while True:
    try:
      if _request('GET', f'{root}/status')['ready']:
        return
    except OSError:
      assert time.monotonic() < end
    time.sleep(0.02)


def _request(method: str, url: str, body=None):
  data = None if body is None else json.dumps(body).encode()
  request = urllib.request.Request(url, data, {'Content-Type': 'application/json'}, method=method)
  # Not over a proxy of the environment: it is this machine.
  opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
  try:
    with opener.open(request, timeout=SECONDS) as answer:
      return json.load(answer)['value']
  except urllib.error.HTTPError as error:
    raise AssertionError(f'{url}: {json.load(error)["value"]["message"]}') from error
