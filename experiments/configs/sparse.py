"""Sparse WaveRNN (§3) on a corpus of speech.

    python launch.py --mode=train --config=experiments/configs/sparse.py:small \
        --config.data.dir=DIR --workdir=RUN
    python launch.py --mode=export --workdir=RUN --output=FILE.safetensors

Variants: `paper` (1024 units, every matrix pruned to 95% in blocks of 16x1 over
200k of 500k steps, as the authors' released model is; needs an accelerator),
`small` (384 units, 114k parameters after pruning; hours on 2 cores) and
`tiny` (seconds on a CPU, for tests).
"""

from experiments.configs import dense
from wavernn_jax import config
from wavernn_jax.errors import InputError


def get_config(variant: str = 'paper') -> config.Config:
  if variant == 'paper':
    # t0 = 1,000, S = 200k and 500 steps between updates are the defaults.
    return config.Config(
        model=config.ModelConfig(units=1024, projection=512),
        pruning=config.PruningConfig(recurrent=0.95, hidden=0.95, output=0.95,
                                     conditioning=0.95))
  if variant == 'small':
    return config.Config(
        model=config.ModelConfig(units=384, projection=192, channels=64, prediction='spectral'),
        optimizer=config.OptimizerConfig(learning_rate=2e-3, final_learning_rate=2e-5,
                                         warmup_steps=200),
        pruning=config.PruningConfig(recurrent=0.9, hidden=0.9, output=0.9, conditioning=0.9,
                                     start=1_000, steps=8_000, interval=100),
        train=config.TrainConfig(steps=20_000, batch=4, crop=1_920, burn_in=240, eval_every=2_000,
                                 save_every=500))
  if variant == 'tiny':
    result = dense.get_config('tiny')
    result.model.units = 32  # the least that --engine=cpu takes
    result.pruning = config.PruningConfig(recurrent=0.75, hidden=0.5, output=0.5,
                                          conditioning=0.5, start=2, steps=12, interval=3)
    return result
  raise InputError(f'sparse.py: variant {variant!r} is unknown; expected paper, small or tiny.')
