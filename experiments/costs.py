"""What a sample costs, from the sizes of a model alone."""

import typing

import jax

from wavernn_jax import models
from wavernn_jax.config import Config


class Sequence(typing.NamedTuple):
  """The paper's N: products that wait for one another in a step, and samples of a step."""

  products: int
  samples: int

  def __str__(self) -> str:
    return f'{self.products}' if self.samples == 1 else f'{self.products} / {self.samples}'


def sequence(config: Config) -> Sequence:
  """N of a model; what runs at frame rate, or for many samples at once, does not count.

  §2: R and two pairs of output layers, 5, against two products in each block of WaveNet. One
  mixture has R and one pair, a fused model R and four pairs for all its lanes.
  """
  m = config.model
  of_kind = {'wavernn': 3 if m.output == 'mixture' else 5, 'subscale': 5, 'fused': 9,
             'wavenet': 2 * m.blocks}
  return Sequence(of_kind[m.kind], m.lanes)


def multiplications(config: Config) -> int:
  """Multiplications with trained weights in a step, those of the conditioning left out."""
  shapes = jax.eval_shape(lambda: models.build(config).init(0))
  return sum(leaf.size for name, part in shapes.items() if name != 'conditioning'
             for leaf in jax.tree.leaves(part) if leaf.ndim > 1)
