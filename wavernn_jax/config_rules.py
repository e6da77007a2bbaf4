"""Which configurations can be: the rules of every field, and their one check."""

from wavernn_jax.config import Config
from wavernn_jax.errors import InputError


def check(config: Config) -> None:
  """Raises InputError, naming every field whose value cannot be.

  The mel convention has its own check, `audio.check_mel_config`.
  """
  wrong = [f'--config.{field}: found {found!r}, expected {expected}'
           for rules in (_model, _data, _optimizer, _train, _evaluation, _lanes, _pruning,
                         _wavenet)
           for holds, field, found, expected in rules(config) if not holds]
  if wrong:
    raise InputError('\n'.join(wrong))


def _positive(section: str, values, *fields: str) -> list[tuple]:
  return [(getattr(values, field) > 0, f'{section}.{field}', getattr(values, field),
           'a positive number') for field in fields]


def _model(config: Config) -> list[tuple]:
  m = config.model
  return [
      (m.kind in ('wavernn', 'subscale', 'fused', 'wavenet'), 'model.kind', m.kind,
       "'wavernn', 'subscale', 'fused' or 'wavenet'"),
      (m.units > 0 and m.units % 2 == 0, 'model.units', m.units,
       'a positive even number: half predict the coarse byte, half the fine one'),
      *_positive('model', m, 'projection', 'channels', 'layers'),
      (m.kernel > 0 and m.kernel % 2 == 1, 'model.kernel', m.kernel, 'a positive odd number'),
      (m.compute_dtype in ('float32', 'bfloat16'), 'model.compute_dtype', m.compute_dtype,
       "'float32' or 'bfloat16'")]


def _data(config: Config) -> list[tuple]:
  d = config.data
  return [
      (d.mels in ('audio', 'paired'), 'data.mels', d.mels, "'audio' or 'paired'"),
      (0 < d.valid_fraction < 0.5, 'data.valid_fraction', d.valid_fraction,
       'between 0 and 0.5'),
      (0 < d.test_fraction < 0.5, 'data.test_fraction', d.test_fraction, 'between 0 and 0.5'),
      (d.workers >= 0, 'data.workers', d.workers, '0 or more')]


def _optimizer(config: Config) -> list[tuple]:
  o = config.optimizer
  return [
      (o.learning_rate > 0, 'optimizer.learning_rate', o.learning_rate, 'above 0'),
      (o.clip_norm > 0, 'optimizer.clip_norm', o.clip_norm, 'above 0'),
      (0 <= o.ema_decay < 1, 'optimizer.ema_decay', o.ema_decay, 'in [0, 1)'),
      (o.warmup_steps >= 0, 'optimizer.warmup_steps', o.warmup_steps, '0 or more')]


def _train(config: Config) -> list[tuple]:
  t = config.train
  return [
      (t.accumulate < 1 or t.batch % t.accumulate == 0, 'train.accumulate', t.accumulate,
       f'a divisor of train.batch = {t.batch}'),
      (0 <= t.burn_in < t.crop, 'train.burn_in', t.burn_in, f'in 0..crop = {t.crop}'),
      (t.input_noise >= 0, 'train.input_noise', t.input_noise, '0 or more'),
      (t.seed >= 0, 'train.seed', t.seed, '0 or more'),
      *_positive('train', t, 'steps', 'batch', 'accumulate', 'crop', 'log_every', 'eval_every',
                 'save_every', 'keep')]


def _evaluation(config: Config) -> list[tuple]:
  return _positive('evaluation', config.evaluation, 'batch', 'block_frames', 'bootstrap')


def _pruning(config: Config) -> list[tuple]:
  p, steps = config.pruning, config.train.steps
  pruned = {f: getattr(p, f) for f in ('recurrent', 'hidden', 'output', 'conditioning')}
  return [
      *[(0 <= z < 1, f'pruning.{f}', z, 'in [0, 1)') for f, z in pruned.items()],
      *_positive('pruning', p, 'block_outputs', 'block_inputs', 'steps', 'interval'),
      (not any(pruned.values()) or p.start + p.steps <= steps, 'pruning.steps', p.steps,
       f'start {p.start} + steps to end within train.steps = {steps}')]


def _wavenet(config: Config) -> list[tuple]:
  m, p = config.model, config.pruning
  if m.kind != 'wavenet':
    return []
  rules = _positive('model', m, 'blocks', 'cycles', 'residual', 'skip', 'mixtures')
  if not all(rule[0] for rule in rules):
    return rules
  pruned = max(p.recurrent, p.hidden, p.output, p.conditioning)
  return rules + [
      (m.blocks % m.cycles == 0, 'model.cycles', m.cycles,
       f'a divisor of model.blocks = {m.blocks}'),
      # Dilations double in a cycle; 2¹⁵ samples are more than a second.
      (m.blocks // m.cycles <= 16, 'model.cycles', m.cycles,
       f'{-(-m.blocks // 16)} or more: dilations of {m.blocks} blocks double up to 2^15'),
      (not pruned, 'pruning', pruned, '0 everywhere: a model of kind wavenet is not pruned')]


def _lanes(config: Config) -> list[tuple]:
  """Rules for the fields of lanes (§4)."""
  m, t = config.model, config.train
  if m.kind == 'fused':
    return _fused_lanes(config)
  if m.kind != 'subscale':
    return [(m.lanes == 1, 'model.lanes', m.lanes,
             "1, or --config.model.kind='subscale' or 'fused'")]
  rules = [(0 < m.lanes <= 256, 'model.lanes', m.lanes, 'in 1..256'),
           (m.horizon >= 0, 'model.horizon', m.horizon, '0 or more'),
           (0 < m.context_layers <= 16, 'model.context_layers', m.context_layers, 'in 1..16'),
           (m.context_channels > 0, 'model.context_channels', m.context_channels,
            'a positive number'),
           (m.context_kernel > 0 and m.context_kernel % 2 == 1, 'model.context_kernel',
            m.context_kernel, 'a positive odd number'),
           (m.context_block > 0, 'model.context_block', m.context_block, 'a positive number')]
  if not all(rule[0] for rule in rules):
    return rules
  # Doubling dilations, the last of which reaches furthest: models/context.py.
  reach = m.context_kernel // 2 + 2**m.context_layers - 1
  block, step = config.evaluation.block_frames * config.mel.hop, m.lanes * m.context_block
  return rules + [
      (t.crop % m.lanes == 0, 'train.crop', t.crop, f'a multiple of model.lanes = {m.lanes}'),
      (m.horizon <= reach, 'model.horizon', m.horizon,
       f'at most {reach}, the reach of context_layers = {m.context_layers} and '
       f'context_kernel = {m.context_kernel}; give more layers'),
      (m.lanes == 1 or m.horizon < t.crop // m.lanes, 'model.horizon', m.horizon,
       f'less than the {t.crop // m.lanes} positions that train.crop = {t.crop} gives each of '
       f'{m.lanes} lanes; give longer crops'),
      (block % step == 0, 'model.context_block', m.context_block,
       f'a number that, times model.lanes = {m.lanes}, divides the {block} samples of '
       f'evaluation.block_frames = {config.evaluation.block_frames} of mel.hop = '
       f'{config.mel.hop}')]


def _fused_lanes(config: Config) -> list[tuple]:
  """Rules for a fused model (§4.4)."""
  m, t, hop = config.model, config.train, config.mel.hop
  rules = [(m.lanes in (1, 2, 4, 8, 16), 'model.lanes', m.lanes,
            'a power of two in 1..16 for a fused model'),
           (m.horizon >= 0, 'model.horizon', m.horizon, '0 or more')]
  if not all(rule[0] for rule in rules):
    return rules
  apart, block = m.lanes * (m.lanes - 1), config.evaluation.block_frames * hop
  return rules + [
      (m.units % (4 * m.lanes) == 0, 'model.units', m.units,
       f'a multiple of {4 * m.lanes}: four nibbles of {m.lanes} lanes have as many units each'),
      # models/fused.py takes no frames for the lanes behind.
      (apart * (m.horizon + 1) <= hop // 2, 'model.horizon', m.horizon,
       f'at most {hop // 2 // max(1, apart) - 1}: the first of {m.lanes} lanes is lanes · '
       f'(lanes − 1) · (horizon + 1) samples ahead, which mel.hop = {hop} lets be {hop // 2}'),
      (t.crop % m.lanes == 0, 'train.crop', t.crop, f'a multiple of model.lanes = {m.lanes}'),
      (block % m.lanes == 0, 'evaluation.block_frames', config.evaluation.block_frames,
       f'a number of frames of {hop} samples that model.lanes = {m.lanes} divides')]
