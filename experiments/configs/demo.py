"""A small dense WaveRNN on the bundled minute of synthetic speech.

    python launch.py --mode=train --config=experiments/configs/demo.py --workdir=RUN

About three minutes on 2 cores: enough to see every part at work, not for a
voice. `python launch.py` plays a model that was trained for longer.
"""

from experiments.configs import dense
from wavernn_jax import commands, config


def get_config(variant: str = 'small') -> config.Config:
  data = config.DataConfig(dir=str(commands.DEMO_SPEECH))
  if variant == 'tiny':
    result = dense.get_config('tiny')
    result.data = data
    return result
  return config.Config(
      data=data,
      model=config.ModelConfig(units=128, projection=128, channels=64, prediction='spectral'),
      optimizer=config.OptimizerConfig(learning_rate=4e-3, final_learning_rate=4e-5,
                                       warmup_steps=100, ema_decay=0.99),
      train=config.TrainConfig(steps=900, batch=4, crop=1_920, burn_in=240, eval_every=300,
                               save_every=150))
