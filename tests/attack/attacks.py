"""What all attacks share: random damage, and what may come of it.

An attack damages an input at random and asks for one of two outcomes: a clear
InputError, or the right result. Anything else is a defect, told with the seed of
the damage. Run them all, with the counts that they print:

  pytest tests/attack -m 'slow or not slow' -s
"""

import collections
import copy
import warnings

import numpy as np
import pytest

from wavernn_jax.errors import InputError

ODD = (None, True, False, -1, 0, 1, 2, 3, 2**31, 2**63, 10**400, 0.5, -0.0, float('nan'),
       float('inf'), '', 'x', '\0', '\ud800', 'é' * 300, [], [1, 2], {}, {'x': 1}, [[[]]])


def counts(short: int, long: int):
  """The parameter `count`: a short form, and the long one, which is slow."""
  return pytest.mark.parametrize('count', [short, pytest.param(long, marks=pytest.mark.slow)])


def damage(data: bytes, rng) -> bytes:
  """Other bytes, as disks, networks and editors make them."""
  kind = rng.integers(9)
  if not data:
    return rng.bytes(1 + rng.integers(100))
  changed, place = bytearray(data), int(rng.integers(len(data)))
  length = int(min(len(data) - place, 1 + rng.integers(64)))
  if kind <= 2:  # some bits
    for at in rng.integers(len(data), size=1 + rng.integers(3)):
      changed[at] ^= 1 << rng.integers(8)
  elif kind == 3:
    del changed[place:]
  elif kind == 4:
    changed += rng.bytes(length)
  elif kind == 5:
    changed[place:place + length] = bytes(length)
  elif kind == 6:
    changed[place:place + length] = rng.bytes(length)
  elif kind == 7:
    del changed[place:place + length]
  else:
    changed[place:place] = changed[:length]
  return bytes(changed)


def replace_somewhere(tree, rng):
  """Changes one value, or adds or removes one, at random in a tree of dicts and lists."""
  places = [(node, key) for node in _nodes(tree) for key in
            (node if isinstance(node, dict) else range(len(node)))]
  if not places:
    return
  node, key = places[rng.integers(len(places))]
  kind = rng.integers(8)
  if kind == 0 and isinstance(node, dict):
    del node[key]
  elif kind == 1 and isinstance(node, dict):
    node[f'{key}x'] = node[key]
  elif kind == 2 and isinstance(node[key], int | float):
    node[key] = node[key] * 2 + 1
  else:
    node[key] = copy.deepcopy(ODD[rng.integers(len(ODD))])


def _nodes(tree):
  if isinstance(tree, dict | list):
    yield tree
    for child in tree.values() if isinstance(tree, dict) else tree:
      yield from _nodes(child)


class Tally:
  """Counts outcomes, and fails with what led to any that may not be."""

  def __init__(self, title: str):
    self._title, self._counts = title, collections.Counter()

  def attack(self, what, function, is_right, errors=InputError):
    """`function()` must raise one of the errors, or give what `is_right` says yes to."""
    try:
      with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        value = function()
    except errors as error:
      message = str(error)
      if not message.strip() or 'Traceback' in message:
        pytest.fail(f'{self._title}: {what}: an error that says nothing: {message!r}')
      self._counts['clear errors'] += 1
      return
    except Exception as error:
      pytest.fail(f'{self._title}: {what}: {type(error).__name__}: {error}'[:1_000])
    if not is_right(value):
      pytest.fail(f'{self._title}: {what}: a wrong result')
    self._counts['right results'] += 1

  def count(self, outcome: str) -> None:
    self._counts[outcome] += 1

  @property
  def total(self) -> int:
    return sum(self._counts.values())

  def report(self, expected: int) -> None:
    """Prints the counts, which must be of all attacks."""
    found = ', '.join(f'{n:,} {name}' for name, n in sorted(self._counts.items()))
    print(f'\n{self._title}: {self.total:,} attacks: {found}, 0 defects')
    assert self.total == expected


def seeded(count: int):
  """(number, generator) of each attack; the number alone repeats it."""
  return ((i, np.random.default_rng([0x5eed, i])) for i in range(count))
