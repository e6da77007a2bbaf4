"""Subscale WaveRNN (§4) on a corpus of speech: S samples a step.

    python launch.py --mode=train --config=experiments/configs/subscale.py:small \
        --config.data.dir=DIR --workdir=RUN

Variants: `x16` (the paper's 1024 units and 16 lanes; needs an accelerator),
`small` (16 lanes beside dense.py:small: its width, prediction, updates and samples an
update) and `tiny` (4 lanes, seconds on a CPU, for tests).

A lane of the dense model's 960-sample crops would have 60 positions, fewer than the
horizon of 64; the paper's model has crops four times as long and a quarter as many. The
small one is that of `python -m experiments.sweeps.subscale`, where it reaches 5.69 nats/sample on
the test split of kathleen24 (two seeds): lanes that code residuals have no context network,
and a horizon of 8 is enough for them.
"""

from experiments.configs import dense
from wavernn_jax import config
from wavernn_jax.errors import InputError


def get_config(variant: str = 'x16') -> config.Config:
  if variant == 'x16':
    return config.Config(
        model=config.ModelConfig(kind='subscale', units=1024, projection=512, lanes=16,
                                 horizon=64),
        train=config.TrainConfig(batch=8, crop=3_840, burn_in=240))
  if variant == 'small':
    result = dense.get_config('small')
    result.model.kind, result.model.lanes, result.model.horizon = 'subscale', 16, 8
    result.model.taps_ahead = 112
    result.optimizer.learning_rate, result.optimizer.final_learning_rate = 4e-3, 4e-5
    result.train.batch, result.train.crop = 2, 3_840
    return result
  if variant == 'tiny':
    result = dense.get_config('tiny')
    result.model = config.ModelConfig(
        kind='subscale', units=32, projection=16, channels=8, layers=1, lanes=4, horizon=8,
        context_layers=3, context_channels=8, context_kernel=3, context_block=25)
    return result
  raise InputError(
      f'subscale.py: variant {variant!r} is unknown; expected x16, small or tiny.')
