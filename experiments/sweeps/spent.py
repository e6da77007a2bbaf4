"""How long a run has taken, over all the processes that have worked on it."""

import json
import pathlib
import threading
import time

from wavernn_jax import files

_NAME = '.spent.json'  # names with a dot do not keep a folder from being a new run's
_EVERY = 30.0  # seconds; what a kill loses of the count


class Clock:
  """A context in which time counts for a folder: `cpu_seconds` of this process, `seconds`."""

  def __init__(self, folder):
    self._path = pathlib.Path(folder) / _NAME
    self._left = threading.Event()

  def __enter__(self):
    self._path.parent.mkdir(parents=True, exist_ok=True)
    self._before = read(self._path.parent)
    self._start = time.process_time(), time.perf_counter()
    self._writer = threading.Thread(target=self._write_often, daemon=True)
    self._writer.start()
    return self

  def __exit__(self, *_):
    self._left.set()
    self._writer.join()
    self._write()

  def _write_often(self):
    while not self._left.wait(_EVERY):
      self._write()

  def _write(self):
    cpu, wall = self._start
    files.write_text(self._path, json.dumps({
        'cpu_seconds': self._before['cpu_seconds'] + time.process_time() - cpu,
        'seconds': self._before['seconds'] + time.perf_counter() - wall}))


def read(folder) -> dict[str, float]:
  """What has been counted for a folder."""
  path = pathlib.Path(folder) / _NAME
  if not path.exists():
    return {'cpu_seconds': 0.0, 'seconds': 0.0}
  return json.loads(path.read_text())
