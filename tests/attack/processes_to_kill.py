"""The zygote of zygote.py, as tests use it."""

import json
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).parent


class Zygote:
  """Runs tasks in forked processes; use it as a context."""

  def __init__(self, log, *modules):
    """`modules`: of tests, imported once for all tasks."""
    self._log = pathlib.Path(log)
    self._process = subprocess.Popen(
        [sys.executable, HERE / 'zygote.py', *modules], text=True, cwd=HERE.parents[1],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE)

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._process.stdin.close()
    self._process.wait()
    self._process.stdout.close()

  def run(self, kind: str, *arguments, seconds: float = 600.0) -> tuple[str, str]:
    """('ended' or 'killed', what it printed); it is killed after so many seconds."""
    task = {'kind': kind, 'arguments': arguments, 'seconds': seconds, 'log': str(self._log)}
    self._process.stdin.write(json.dumps(task) + '\n')
    self._process.stdin.flush()
    outcome = self._process.stdout.readline().strip()
    return outcome, self._log.read_text() if self._log.exists() else ''
