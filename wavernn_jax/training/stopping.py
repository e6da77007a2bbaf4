"""When to stop: on a signal to this process or to any other in its world."""

import signal

import jax
from jax.sharding import Mesh
import numpy as np

from wavernn_jax.training import world


class OnSignal:
  """True once SIGTERM or SIGINT has come; a second SIGINT interrupts as usual."""

  def __enter__(self):
    self._stopping = False
    self._previous = {s: signal.signal(s, self._handle)
                      for s in (signal.SIGTERM, signal.SIGINT)}
    return self

  def _handle(self, number, frame):
    del frame
    self._stopping = True
    signal.signal(number, self._previous[number])

  def __bool__(self):
    return self._stopping

  def __exit__(self, *_):
    for number, handler in self._previous.items():
      signal.signal(number, handler)


def stop(mine, mesh: Mesh):
  """Whether to stop, for one process or many.

  Args:
    mine: true once this process has been told to stop.
    mesh: of `world.data_mesh`.
  """
  return Alone(mine) if jax.process_count() == 1 else Together(mine, mesh)


class Alone:
  """Whether this process, the only one, was told to stop."""

  def __init__(self, mine):
    self._mine = mine

  def wrap(self, train_step):
    """The train step (state, batch) -> (state, metrics), as `call` takes it compiled."""
    return train_step

  def call(self, compiled, state, batch):
    """(state, metrics) of a compiled step."""
    return compiled(state, batch)

  def agree(self) -> bool:
    """Whether any process has been told to stop by now; all must call it together."""
    return bool(self._mine)

  def __bool__(self):
    return bool(self._mine)


class Together:
  """Whether any process was told to stop: true at the same step in all of them.

  The flags of all processes meet in the train step, whose result is read two
  steps later so that the devices never wait for it. The methods are those of `Alone`.
  """

  def __init__(self, mine, mesh: Mesh):
    self._mine, self._sharding = mine, jax.NamedSharding(mesh, jax.P('data'))
    self._pending, self._stopping = [], False

  def wrap(self, train_step):
    def step(state, batch, flags):
      return *train_step(state, batch), flags.max()
    return step

  def call(self, compiled, state, batch):
    state, metrics, any_flag = compiled(state, batch, self.flags())
    self.read(any_flag)
    return state, metrics

  def agree(self) -> bool:
    self._stopping |= bool(world.add_up(np.float64([bool(self._mine)]))[0])
    return self._stopping

  def flags(self):
    """The current flags, one for each device."""
    mine = np.full(jax.local_device_count(), bool(self._mine), np.int32)
    return jax.make_array_from_process_local_data(self._sharding, mine)

  def read(self, any_flag) -> None:
    """Takes the flag that a step returned."""
    self._pending.append(any_flag)
    if len(self._pending) > 2:
      self._stopping |= bool(self._pending.pop(0))

  def __bool__(self):
    return self._stopping
