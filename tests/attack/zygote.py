"""A process that has imported the package and forks another for each task: no imports to wait for.

Tasks come as lines of JSON: kind, arguments, where to log, and the seconds after
which it is killed. The answer is a line with what became of it.
"""

import importlib
import json
import os
import pathlib
import signal
import sys
import time
import traceback

sys.path[:0] = [str(pathlib.Path(__file__).parents[1]), str(pathlib.Path(__file__).parents[2])]

from wavernn_jax import commands, config as config_lib  # noqa: E402
from wavernn_jax.errors import InputError  # noqa: E402
from wavernn_jax.training import loop, workdir  # noqa: E402


class Accepted(Exception):
  """A training whose flags are in order would begin now."""


def train(config, folder):
  loop.train(config_lib.from_dict(config), folder)


def synthesize(inputs, output):
  from test_executors import speak  # its flags are not those of launch.py
  speak(inputs, output)


def launch(lines, folder):
  """Each of the command lines in a process forked once more; a line of JSON for each."""
  def claim(*_):
    raise Accepted
  workdir.claim = claim
  for line in lines:
    child = os.fork()
    if not child:
      outcome = json.dumps(_launched(['launch.py', *line])) + '\n'
      with open(f'{folder}/outcomes.jsonl', 'a') as file:
        file.write(outcome)
      os._exit(0)
    os.waitpid(child, 0)


def _launched(argv):
  sys.argv = argv  # where the flags of a config are looked for
  import launch as launch_lib  # in a process that has no other flags
  launch_lib.logging.set_verbosity(launch_lib.logging.FATAL)
  try:
    launch_lib.main(launch_lib._parse(argv))
    return ['done', '']
  except InputError as error:
    return ['refused', str(error)]
  except Accepted:
    return ['accepted', '']
  except BaseException:
    return ['traceback', traceback.format_exc()[-2_000:]]


def _child(task):
  log = os.open(task['log'], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
  os.dup2(log, 1)
  os.dup2(log, 2)
  status = 1
  try:
    {'train': train, 'synthesize': synthesize, 'launch': launch}[task['kind']](*task['arguments'])
    status = 0
  except InputError as error:
    print(f'InputError: {error}')
  except BaseException:
    traceback.print_exc()
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(status)


def _wait(child: int, seconds: float) -> str:
  end = time.monotonic() + seconds
  while time.monotonic() < end:
    if os.waitpid(child, os.WNOHANG)[0]:
      break
    time.sleep(0.001)
  else:
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return 'killed' if os.WIFSIGNALED(status) else 'ended'
  return 'ended'


def serve():
  assert commands.DEMO_SPEECH.exists()
  for module in sys.argv[1:]:
    importlib.import_module(module)
  for line in sys.stdin:
    task = json.loads(line)
    child = os.fork()
    if not child:
      _child(task)
    print(_wait(child, task['seconds']), flush=True)


if __name__ == '__main__':
  serve()
