"""WaveNet, the paper's baseline, on a corpus of speech.

    python launch.py --mode=train --config=experiments/configs/wavenet.py:small \
        --config.data.dir=DIR --workdir=RUN

Variants: `paper` (30 blocks in 3 cycles; needs an accelerator), `small` (the same 30
blocks, 24 channels wide; on a CPU) and `tiny` (seconds on a CPU, for tests).

The paper gives its blocks and cycles, but no widths. Those of `paper` are: gates of 2 · 256,
which Parallel WaveNet states (as quoted in NVIDIA/nv-wavenet, issue 22), 512 residual and
256 skip channels, as r9y9/wavenet_vocoder has them (its issue 200 prints the layers), and
ten logistics, our choice. `small` takes about as many multiplications a sample as
dense.py:small, and reaches 5.62 nats/sample on the test split of kathleen24 (`python -m
experiments.sweeps.systems`, three seeds).

A sample depends on the 3,070 before it and crops begin without any, so they are longer
than WaveRNN's and batches smaller: as many samples an update.
"""

from experiments.configs import dense
from wavernn_jax import config
from wavernn_jax.errors import InputError


def get_config(variant: str = 'paper') -> config.Config:
  if variant == 'paper':
    return config.Config(
        model=config.ModelConfig(kind='wavenet', units=256, projection=256),
        train=config.TrainConfig(batch=4, crop=7_680, burn_in=960))
  if variant == 'small':
    result = dense.get_config('small')
    result.model = config.ModelConfig(
        kind='wavenet', units=24, projection=128, residual=24, skip=48, channels=64,
        prediction='spectral')
    result.train.batch, result.train.crop, result.train.burn_in = 1, 7_680, 960
    result.optimizer.learning_rate, result.optimizer.final_learning_rate = 4e-3, 4e-5
    return result
  if variant == 'tiny':
    result = dense.get_config('tiny')
    result.model = config.ModelConfig(
        kind='wavenet', units=8, projection=16, channels=8, layers=1, blocks=6, cycles=2,
        residual=8, skip=16, mixtures=3)
    return result
  raise InputError(f'wavenet.py: variant {variant!r} is unknown; expected paper, small or tiny.')
