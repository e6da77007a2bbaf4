"""The tape of lanes (§4) that sample: the last positions of an utterance, in audio order.

At the same step each lane is Δ positions behind the one before it, so they read and write it
at different places. At every step it moves by one position.
"""

import dataclasses
import typing

import jax
import jax.numpy as jnp
import numpy as np


class Tape(typing.NamedTuple):
  """0 where nothing is drawn yet.

  pcm: int16 BxN.
  residual: float32 BxN, over σ.
  excitation: float32 BxN, ê (excitation.py); without samples where it is not heard.
  """

  pcm: jax.Array
  residual: jax.Array
  excitation: jax.Array


@dataclasses.dataclass(frozen=True)
class Layout:
  """Where lanes stand: lane s at position lead + delay − s·Δ.

  lanes: S.
  step: Δ, positions.
  lead: positions before the last lane's.
  ahead: positions after the first lane's.
  """

  lanes: int
  step: int
  lead: int
  ahead: int

  @property
  def delay(self) -> int:
    """Positions by which the last lane is behind the first."""
    return (self.lanes - 1) * self.step

  def start(self, batch: int, excited: bool) -> Tape:
    """Silence."""
    samples = self.lanes * (self.lead + self.delay + 1 + self.ahead)
    return Tape(jnp.zeros((batch, samples), jnp.int16), jnp.zeros((batch, samples), jnp.float32),
                jnp.zeros((batch, samples * excited), jnp.float32))

  def at(self, offsets_D) -> np.ndarray:
    """Where samples stand at these offsets from each lane's own, SxD."""
    lane_S = np.arange(self.lanes)
    own_S = self.lanes * (self.lead + self.delay - lane_S * self.step) + lane_S
    return own_S[:, None] + offsets_D

  def windows(self, a_BxN, offsets_D):
    """[S, B, D] of offsets without gaps."""
    return jnp.stack([a_BxN[:, first:first + len(offsets_D)]
                      for first in self.at(offsets_D[:1])[:, 0]])

  def add(self, a_BxN, new_SxBxD, offsets_D):
    """Adds to the samples at offsets without gaps, fewer than two lanes are apart (S·Δ − 1)."""
    apart = self.lanes * self.step - 1
    first = self.at(offsets_D[:1])[-1, 0]
    # The last lane stands first; one addition is faster than one of each lane.
    new_SxBxW = jnp.pad(new_SxBxD, ((0, 0), (0, 0), (0, apart - len(offsets_D))))
    new_BxN = new_SxBxW[::-1].swapaxes(0, 1).reshape(len(a_BxN), -1)
    new_BxN = new_BxN[:, :apart * (self.lanes - 1) + len(offsets_D)]
    return a_BxN.at[:, first:first + new_BxN.shape[1]].add(new_BxN)

  def put(self, a_BxN, new_SxB):
    """With each lane's own sample."""
    return a_BxN.at[:, self.at([0])[:, 0]].set(new_SxB.T)

  def moved(self, tape: Tape) -> Tape:
    """By one position."""
    return jax.tree.map(lambda a_BxN: jnp.pad(
        a_BxN[:, self.lanes:], ((0, 0), (0, min(self.lanes, a_BxN.shape[1])))), tape)

  def drawn(self, tape: Tape):
    """BxS: the position that the last lane has just completed."""
    first = self.lanes * (self.lead - 1)
    return tape.pcm[:, first:first + self.lanes]
