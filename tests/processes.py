"""New Pythons for tests: with several devices each, or as a world of several."""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from wavernn_jax import config as config_lib
from wavernn_jax.training import journal

ROOT = pathlib.Path(__file__).parent.parent
SECONDS = 300  # for any process to get anywhere on a busy machine


def environment(devices: int = 1) -> dict:
  """Of a Python with that many CPU devices."""
  flags = f'{os.environ.get("XLA_FLAGS", "")} --xla_force_host_platform_device_count={devices}'
  return os.environ | {'XLA_FLAGS': flags}


def as_argument(config) -> str:
  return json.dumps(config_lib.to_dict(config))


def free_port() -> int:
  with socket.socket() as s:
    s.bind(('localhost', 0))
    return s.getsockname()[1]


class World:
  """Processes of launch.py that train together in a folder."""

  def __init__(self, config, workdir, count: int = 2, flags=((), ())):
    """`flags`: more of them for each process."""
    self.workdir = pathlib.Path(workdir)
    self.workdir.parent.mkdir(parents=True, exist_ok=True)
    file = self.workdir.with_suffix('.config.py')
    file.write_text('import json\nfrom wavernn_jax import config\ndef get_config():\n'
                    f'  return config.from_dict(json.loads({as_argument(config)!r}))\n')
    port = free_port()
    self.processes = [subprocess.Popen(
        [sys.executable, 'launch.py', '--mode=train', f'--config={file}',
         f'--workdir={workdir}', f'--coordinator=localhost:{port}', f'--num_processes={count}',
         f'--process_id={i}', *flags[i]], env=environment(), cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE) for i in range(count)]

  def __enter__(self):
    return self

  def __exit__(self, *_):
    for process in self.processes:
      process.kill()
      process.communicate()

  def wait_for_step(self, step: int) -> None:
    end = time.monotonic() + SECONDS
    while not any(row['step'] >= step for row in journal.read_rows(
        self.workdir / 'metrics.jsonl')):
      for i, process in enumerate(self.processes):
        if process.poll() is not None:
          pytest.fail(f'process {i} ended first:\n{process.communicate()[1]}')
      assert time.monotonic() < end
      time.sleep(0.001)

  def kill(self, index: int) -> None:
    self.processes[index].send_signal(signal.SIGKILL)
    assert self.processes[index].wait(SECONDS) == -signal.SIGKILL

  def end(self, index: int, seconds: float = SECONDS) -> tuple[int, str, str]:
    """Exit status, output and errors of a process that ends by itself."""
    out, err = self.processes[index].communicate(timeout=seconds)
    return self.processes[index].returncode, out, err

  def finish(self) -> int:
    """The last step, once all have ended well."""
    ended = [self.end(i) for i in range(len(self.processes))]
    for status, _, err in ended:
      assert status == 0, err
    return int(re.search(r'^{"step": (\d+)', ended[0][1], re.MULTILINE)[1])
