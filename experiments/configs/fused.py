"""Fused Subscale WaveRNN (§4.4) on a corpus of speech: two samples a step.

    python launch.py --mode=train --config=experiments/configs/fused.py:small \
        --config.data.dir=DIR --workdir=RUN

Variants: `x2` (the paper's two lanes and F = 2 at the width of subscale.py:x16;
needs an accelerator), `small` (beside dense.py:small: its width, updates, crops
and batch, at the rate that suits it) and `tiny` (seconds on a CPU, for tests). On the test
split of kathleen24 the small one reaches 5.67 nats/sample (`python -m experiments.sweeps.subscale`,
one seed so far).
"""

from experiments.configs import dense
from wavernn_jax import config
from wavernn_jax.errors import InputError


def get_config(variant: str = 'x2') -> config.Config:
  if variant == 'x2':
    return config.Config(model=config.ModelConfig(
        kind='fused', units=1024, projection=512, lanes=2, horizon=2))
  if variant in ('small', 'tiny'):
    result = dense.get_config(variant)
    result.model.kind, result.model.lanes, result.model.horizon = 'fused', 2, 2
    if variant == 'small':
      result.optimizer.learning_rate, result.optimizer.final_learning_rate = 4e-3, 4e-5
    return result
  raise InputError(f'fused.py: variant {variant!r} is unknown; expected x2, small or tiny.')
