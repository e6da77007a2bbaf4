"""What a table of weights adds to the gates of a step for what it hears (layout.py, hear.py).

All functions are for nopython code; they are unrolled over what is heard, whose number is
part of the types.
"""

from numba import types
from numba.extending import overload, register_jitable

from wavernn_jax.sampling.cpu.simd import WIDTH, fma, load


def table_rows(terms):
  """Rows of a gate in an input table."""
  raise NotImplementedError('for nopython code')


@overload(table_rows)
def _table_rows(terms):
  if isinstance(terms, types.BaseNamedTuple):
    return lambda terms: len(terms.fixed) + 2 * len(terms.sizes)
  return lambda terms: len(terms)


def gate_input(table, start, terms):
  """Sixteen units' input to a gate; terms: of hear.py."""
  raise NotImplementedError('for nopython code')


@overload(gate_input)
def _gate_input(table, start, terms):  # pylint: disable=unused-argument
  if not isinstance(terms, types.BaseNamedTuple):
    return lambda table, start, terms: _fixed_input(table, start, terms)

  def of_residuals(table, start, terms):
    return residual_input(table, start + len(terms.fixed) * WIDTH, terms.rows, terms.sizes,
                          _fixed_input(table, start, terms.fixed))
  return of_residuals


def residual_input(table, start, rows, sizes, x):
  """Adds what the past residuals, of which there are as many as `rows`, contribute."""
  raise NotImplementedError('for nopython code')


@overload(residual_input)
def _residual_input(table, start, rows, sizes, x):  # pylint: disable=unused-argument
  if not len(rows):
    return lambda table, start, rows, sizes, x: x
  return lambda table, start, rows, sizes, x: residual_input(
      table, start, rows[1:], sizes[1:], fma(load(table, start + rows[0]), sizes[0], x))


@register_jitable
def _fixed_input(table, start, terms):
  """Frame k, frame k + 1, previous coarse, previous fine."""
  x = load(table, start) * terms[0]
  x = fma(load(table, start + WIDTH), terms[1], x)
  x = fma(load(table, start + 2 * WIDTH), terms[2], x)
  x = fma(load(table, start + 3 * WIDTH), terms[3], x)
  return _current_input(table, start, terms, x)


def _current_input(table, start, terms, x):
  """Adds the current coarse byte, a fifth term that the fine half has."""
  raise NotImplementedError('for nopython code')


@overload(_current_input)
def _overload_current_input(table, start, terms, x):  # pylint: disable=unused-argument
  if len(terms) < 5:
    return lambda table, start, terms, x: x
  return lambda table, start, terms, x: fma(
      load(table, start + 4 * WIDTH), terms[4], x)
