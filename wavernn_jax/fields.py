"""The rule of each field of a configuration. A test fails for a field without a rule."""

from collections.abc import Callable
import dataclasses
from typing import Any

_COUNT = 10**9  # limit of steps and other counts that cost nothing; fits int32


@dataclasses.dataclass(frozen=True)
class Rule:
  """The values that one field may have: as a test, and in words."""

  holds: Callable[[Any], bool]
  expected: str


def between(low, high, why: str = '') -> Rule:
  return Rule(lambda x: low <= x <= high, f'{_number(low)} to {_number(high)}{why}')


def above(low, high) -> Rule:
  return Rule(lambda x: low < x <= high, f'above {_number(low)}, at most {_number(high)}')


def fraction(open_low: bool = False, high=1) -> Rule:
  """From 0 (or above it) to below `high`."""
  return Rule(lambda x: 0 <= x < high and not (open_low and x == 0),
              f'{"above 0" if open_low else "0 or more"}, below {high}')


def even(low: int, high: int, why: str = '') -> Rule:
  return Rule(lambda x: low <= x <= high and x % 2 == 0,
              f'an even number, {_number(low)} to {_number(high)}{why}')


def odd(low: int, high: int) -> Rule:
  return Rule(lambda x: low <= x <= high and x % 2 == 1,
              f'an odd number, {_number(low)} to {_number(high)}')


def one_of(*values) -> Rule:
  return Rule(lambda x: x in values, ' or '.join(map(repr, values)))


def _number(value) -> str:
  return f'{value:,}' if isinstance(value, int) else f'{value:g}'


TEXT = Rule(lambda x: '\0' not in x, 'text without NUL characters')
SWITCH = Rule(lambda x: True, 'True or False')

RULES = {
    'init_from': TEXT,
    'model.kind': one_of('wavernn', 'subscale', 'fused', 'wavenet'),
    'model.units': even(2, 16_384, ': half predict the coarse byte, half the fine one'),
    'model.projection': between(1, 16_384),
    'model.channels': between(1, 8_192),
    'model.layers': between(1, 64),
    'model.kernel': odd(1, 255),
    'model.output': one_of('dual_softmax', 'mixture'),
    'model.compute_dtype': one_of('float32', 'bfloat16'),
    'model.activations': one_of('float32', 'int8'),
    'model.prediction': one_of('none', 'spectral'),
    'model.taps': between(1, 4_096),
    'model.taps_ahead': between(0, 4_096),
    'model.reset_bias': SWITCH,
    'model.lanes': between(1, 256),
    'model.horizon': between(0, 65_536),
    'model.context_layers': between(1, 16),
    'model.context_channels': between(1, 8_192),
    'model.context_kernel': odd(1, 1_023),
    'model.context_block': between(1, 65_536),
    'model.blocks': between(1, 256),
    'model.cycles': between(1, 256),
    'model.residual': between(1, 16_384),
    'model.residuals': between(1, 64),
    'model.skip': between(1, 16_384),
    'model.mixtures': between(1, 256),
    'mel.name': TEXT,
    'mel.sample_rate': between(100, 384_000),
    'mel.n_fft': even(2, 65_536),
    'mel.window': between(1, 65_536),
    'mel.hop': between(1, 65_536),
    'mel.bands': between(1, 1_024),
    'mel.fmin': between(0, 192_000),
    'mel.fmax': above(0, 192_000),
    'mel.power': above(0, 4),
    'mel.power_floor': between(0, 1),
    'mel.mel_scale': one_of('slaney', 'htk'),
    'mel.mel_norm': one_of('slaney', 'none'),
    'mel.log': one_of('e', '10'),
    'mel.clamp': between(1e-30, 1),
    'mel.center': SWITCH,
    'mel.pad_mode': one_of('reflect', 'constant'),
    'data.dir': TEXT,
    'data.mels': one_of('audio', 'paired'),
    'data.valid_fraction': fraction(open_low=True, high=0.5),
    'data.test_fraction': fraction(open_low=True, high=0.5),
    'data.skip_bad': SWITCH,
    'data.check': SWITCH,
    'data.workers': between(0, 256),
    'data.cache_mb': between(0, 2**24),
    'optimizer.learning_rate': above(0, 1),
    'optimizer.final_learning_rate': between(0, 1),
    'optimizer.warmup_steps': between(0, _COUNT),
    'optimizer.b1': fraction(),
    'optimizer.b2': fraction(),
    'optimizer.eps': above(0, 1),
    'optimizer.clip_norm': above(0, 1_000_000),
    'optimizer.ema_decay': fraction(),
    'pruning.recurrent': fraction(),
    'pruning.hidden': fraction(),
    'pruning.output': fraction(),
    'pruning.conditioning': fraction(),
    'pruning.block_outputs': between(1, 4_096),
    'pruning.block_inputs': between(1, 4_096),
    'pruning.start': between(0, _COUNT),
    'pruning.steps': between(1, _COUNT),
    'pruning.interval': between(1, _COUNT),
    'pruning.regrow': SWITCH,
    'train.steps': between(1, _COUNT),
    'train.batch': between(1, 65_536),
    'train.accumulate': between(1, 65_536),
    'train.crop': between(1, 2**20),
    'train.burn_in': between(0, 2**20),
    'train.input_noise': between(0, 10),
    'train.flip_polarity': SWITCH,
    'train.seed': between(0, 2**32 - 1),
    'train.log_every': between(1, _COUNT),
    'train.eval_every': between(1, _COUNT),
    'train.save_every': between(1, _COUNT),
    'train.keep': between(1, 1_000_000),
    'evaluation.batch': between(1, 4_096),
    'evaluation.block_frames': between(1, 65_536),
    'evaluation.max_valid_utterances': between(0, _COUNT),
    'evaluation.synthesize': between(0, 1_000),
    'evaluation.synthesize_seconds': above(0, 3_600),
    'evaluation.bootstrap': between(1, 1_000_000),
    'evaluation.free_running': between(0, _COUNT),
}

# Flags that are not fields.
TEMPERATURE = between(
    0, 100.0, '; 0 takes the most probable value, 1 samples the distribution of the model')
