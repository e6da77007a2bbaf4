"""The demo: a small dense WaveRNN on the bundled minute of synthetic speech.

    python launch.py

About three minutes of training on 2 cores.
"""

from experiments.configs import dense
from wavernn_jax import config


def get_config(variant: str = 'small') -> config.Config:
  if variant == 'tiny':
    return dense.get_config('tiny')
  return config.Config(
      model=config.ModelConfig(units=128, projection=128, channels=64),
      optimizer=config.OptimizerConfig(learning_rate=3e-3, final_learning_rate=3e-5,
                                       warmup_steps=100, ema_decay=0.99),
      train=config.TrainConfig(steps=900, batch=16, burn_in=120, eval_every=300,
                               save_every=300))
