"""Which configurations are possible, and which models suit a purpose; asked before any work.

fields.py has the rule of each field by itself. Here are the rules between fields
(`_JOINT`), and those of what is done with a trained model (`PURPOSES`).
"""

import dataclasses
import math

from wavernn_jax import fields
from wavernn_jax.config import Config
from wavernn_jax.errors import InputError

_KINDS = {bool: 'True or False', int: 'a whole number', float: 'a finite number', str: 'text'}


class Unsuited(InputError):
  """A model that cannot be used for a purpose."""


def check(config: Config) -> None:
  """Raises InputError, naming every field of a configuration whose value is impossible."""
  if wrong := problems(config):
    raise InputError('\n'.join(wrong))


def problems(config: Config) -> list[str]:
  """The complaints of `check`, one line for each field."""
  wrong = _fields(config, 'config')
  if not wrong:  # the rules below rely on these: some divide by a field
    wrong = [_message(f'config.{field}', found, expected) for rule in _JOINT
             for holds, field, found, expected in rule(config) if not holds]
  return wrong


def check_suits(config: Config, purpose: str) -> None:
  """Raises Unsuited, naming every field for which a model does not suit a purpose.

  Args:
    config: one that `check` accepts.
    purpose: one of PURPOSES.
  """
  if wrong := unsuited(config, purpose):
    raise Unsuited('\n'.join(wrong))


def suits(config: Config, purpose: str) -> bool:
  return not unsuited(config, purpose)


def unsuited(config: Config, purpose: str) -> list[str]:
  """The complaints of `check_suits`, one line for each field."""
  where, advice, rule = PURPOSES[purpose]
  return [f'{where}: found model.{field} = {found!r}, expected {expected}; {advice}.'
          for holds, field, found, expected in rule(config) if not holds]


def check_temperatures(temperatures) -> tuple:
  """Returns the temperatures of the coarse and the fine byte if they are valid.

  Raises:
    InputError: naming the flag.
  """
  for byte, value in zip(('coarse', 'fine'), temperatures, strict=True):
    if not fields.TEMPERATURE.holds(value):
      raise InputError(_message(f'temperature_{byte}', value, fields.TEMPERATURE.expected))
  return temperatures


def _message(flag: str, found, expected: str) -> str:
  return f'--{flag}: found {repr(found)[:80]}, expected {expected}'


def _fields(config, where: str) -> list[str]:
  """Complaints about the fields of a section and of the sections in it."""
  wrong = []
  for field in dataclasses.fields(config):
    value, name = getattr(config, field.name), f'{where}.{field.name}'
    if dataclasses.is_dataclass(value):
      wrong += _fields(value, name)
      continue
    rule, kind = fields.RULES[name.removeprefix('config.')], type(field.default)
    if not _is_a(value, kind):
      wrong.append(_message(name, value, f'{_KINDS[kind]}, {rule.expected}'))
    elif not rule.holds(value):
      wrong.append(_message(name, value, rule.expected))
  return wrong


def _is_a(value, kind: type) -> bool:
  """Whether a value has a field's type. Floats must be finite; whole numbers will do."""
  if isinstance(value, bool) or kind is bool:
    return isinstance(value, bool) and kind is bool
  if kind is float:
    return isinstance(value, int | float) and abs(value) < math.inf
  return isinstance(value, kind)


# Rules between fields: (holds, field, found, expected)


def _mel(config: Config) -> list[tuple]:
  mel = config.mel
  return [
      (mel.window <= mel.n_fft, 'mel.window', mel.window, f'at most n_fft = {mel.n_fft}'),
      (mel.hop <= mel.window, 'mel.hop', mel.hop, f'at most window = {mel.window}'),
      (mel.center or mel.hop % 2 == 0, 'mel.hop', mel.hop, 'even where center is False'),
      (mel.fmin < mel.fmax, 'mel.fmin', mel.fmin, f'below fmax = {mel.fmax}'),
      (mel.fmax <= mel.sample_rate / 2, 'mel.fmax', mel.fmax,
       f'at most half of sample_rate = {mel.sample_rate}')]


def _train(config: Config) -> list[tuple]:
  t, e, mel = config.train, config.evaluation, config.mel
  frames = e.synthesize_seconds * mel.sample_rate / mel.hop
  return [
      (t.batch % t.accumulate == 0, 'train.accumulate', t.accumulate,
       f'a divisor of train.batch = {t.batch}'),
      (t.burn_in < t.crop, 'train.burn_in', t.burn_in, f'below train.crop = {t.crop}'),
      (frames >= 1 or not e.synthesize, 'evaluation.synthesize_seconds', e.synthesize_seconds,
       f'at least a frame of mel.hop = {mel.hop} samples')]


def _pruning(config: Config) -> list[tuple]:
  p, steps = config.pruning, config.train.steps
  pruned = any((p.recurrent, p.hidden, p.output, p.conditioning))
  return [(not pruned or p.start + p.steps <= steps, 'pruning.steps', p.steps,
           f'start {p.start} + steps to end within train.steps = {steps}')]


def _prediction(config: Config) -> list[tuple]:
  """Rules for a spectral prediction (models/prediction.py)."""
  m = config.model
  if m.prediction != 'spectral':
    return []
  longest = config.mel.n_fft // 2
  whole = m.taps + (m.taps_ahead + 2 * m.lanes - 2 if m.lanes > 1 else 0)
  return [
      (whole <= longest, 'model.taps', m.taps,
       f'at most {longest - whole + m.taps}: a spectrum of mel.n_fft = {config.mel.n_fft} says '
       'no more'),
      (m.taps >= m.lanes, 'model.taps', m.taps,
       f'at least model.lanes = {m.lanes}: every lane knows its own last sample'),
      (m.kind == 'wavenet' or not config.train.input_noise, 'train.input_noise',
       config.train.input_noise,
       "0 with model.prediction = 'spectral', which hears no bytes"),
      (m.kind != 'wavernn' or m.residuals <= config.mel.hop, 'model.residuals', m.residuals,
       f'at most mel.hop = {config.mel.hop}: predictions of so many samples are known again '
       'where a block of a stream begins'),
      (m.kernel > 1 or m.lanes > 1, 'model.kernel', m.kernel,
       "3 or more with model.prediction = 'spectral', which takes the frame before, too")]


def _gru(config: Config) -> list[tuple]:
  m = config.model
  return [(not m.reset_bias or m.kind == 'wavernn', 'model.reset_bias', m.reset_bias,
           f'False in a {m.kind} model'),
          (m.activations == 'float32' or (m.kind == 'wavernn' and m.output == 'dual_softmax'),
           'model.activations', m.activations,
           "'float32' where model.kind is not 'wavernn' or model.output is 'mixture'")]


def _output(config: Config) -> list[tuple]:
  """Rules for the ablation of the dual softmax (models/single_head.py)."""
  m = config.model
  return [(m.output == 'dual_softmax' or m.kind == 'wavernn', 'model.output', m.output,
           f"'dual_softmax' in a {m.kind} model")]


def _wavenet(config: Config) -> list[tuple]:
  m, p = config.model, config.pruning
  if m.kind != 'wavenet':
    return []
  pruned = max(p.recurrent, p.hidden, p.output, p.conditioning)
  return [
      (m.blocks % m.cycles == 0, 'model.cycles', m.cycles,
       f'a divisor of model.blocks = {m.blocks}'),
      # Dilations double in a cycle; 2¹⁵ samples are more than a second.
      (m.blocks // m.cycles <= 16, 'model.cycles', m.cycles,
       f'{-(-m.blocks // 16)} or more: dilations of {m.blocks} blocks double up to 2^15'),
      (not pruned, 'pruning', pruned, '0 everywhere: a model of kind wavenet is not pruned')]


def _lanes(config: Config) -> list[tuple]:
  """Rules for the fields of lanes (§4)."""
  m = config.model
  if m.kind == 'subscale':
    return _subscale_lanes(config)
  if m.kind == 'fused':
    return _fused_lanes(config)
  return [(m.lanes == 1, 'model.lanes', m.lanes,
           "1, or --config.model.kind='subscale' or 'fused'")]


def _subscale_lanes(config: Config) -> list[tuple]:
  m, t = config.model, config.train
  return [
      (t.crop % m.lanes == 0, 'train.crop', t.crop, f'a multiple of model.lanes = {m.lanes}'),
      (m.lanes == 1 or m.horizon < t.crop // m.lanes, 'model.horizon', m.horizon,
       f'less than the {t.crop // m.lanes} positions that train.crop = {t.crop} gives each of '
       f'{m.lanes} lanes; give longer crops'),
      *([_block_of_lanes(config)] if m.prediction == 'spectral' else _context(config))]


def _context(config: Config) -> list[tuple]:
  """Rules for the context network of a subscale model."""
  m = config.model
  # Doubling dilations, the last of which reaches furthest: models/context.py.
  reach = m.context_kernel // 2 + 2**m.context_layers - 1
  block, step = config.evaluation.block_frames * config.mel.hop, m.lanes * m.context_block
  return [
      (m.horizon <= reach, 'model.horizon', m.horizon,
       f'at most {reach}, the reach of context_layers = {m.context_layers} and '
       f'context_kernel = {m.context_kernel}; give more layers'),
      (block % step == 0, 'model.context_block', m.context_block,
       f'a number that, times model.lanes = {m.lanes}, divides the {block} samples of '
       f'evaluation.block_frames = {config.evaluation.block_frames} of mel.hop = '
       f'{config.mel.hop}')]


def _block_of_lanes(config: Config) -> tuple:
  frames, hop, lanes = config.evaluation.block_frames, config.mel.hop, config.model.lanes
  return (frames * hop % lanes == 0, 'evaluation.block_frames', frames,
          f'a number of frames of {hop} samples that model.lanes = {lanes} divides')


def _fused_lanes(config: Config) -> list[tuple]:
  """Rules for a fused model (§4.4)."""
  m, t, hop = config.model, config.train, config.mel.hop
  if m.lanes not in (1, 2, 4, 8, 16):
    return [(False, 'model.lanes', m.lanes, 'a power of two in 1..16 for a fused model')]
  apart = m.lanes * (m.lanes - 1)
  return [
      (m.units % (4 * m.lanes) == 0, 'model.units', m.units,
       f'a multiple of {4 * m.lanes}: four nibbles of {m.lanes} lanes have as many units each'),
      # models/fused.py takes no frames for the lanes behind.
      (apart * (m.horizon + 1) <= hop // 2, 'model.horizon', m.horizon,
       f'at most {hop // 2 // max(1, apart) - 1}: the first of {m.lanes} lanes is lanes · '
       f'(lanes − 1) · (horizon + 1) samples ahead, which mel.hop = {hop} lets be {hop // 2}'),
      (t.crop % m.lanes == 0, 'train.crop', t.crop, f'a multiple of model.lanes = {m.lanes}'),
      _block_of_lanes(config)]


# Rules for what is done with a model: (holds, field of the model, found, expected)


def _export(config: Config) -> list[tuple]:
  """Blocks divide all that can be pruned (sampling/export.py)."""
  m, p = config.model, config.pruning
  pruned = max(p.recurrent, p.hidden, p.output, p.conditioning) > 0
  fours = pruned and (p.block_outputs, p.block_inputs) == (4, 4)
  multiples = {'units': 16, 'projection': 16}
  if fours:
    multiples = {'units': 8, 'projection': 4, 'channels': 4}
    if m.kind == 'subscale' and m.prediction == 'none':
      multiples['context_channels'] = 4
  return [(m.kind != 'wavenet', 'kind', m.kind, 'a WaveRNN'), _dual_softmax(m),
          *_sizes(m, multiples, f' for blocks of {"4x4" if fours else "16x1"}')]


def _cpu(config: Config) -> list[tuple]:
  """What the compiled kernels need (sampling/cpu)."""
  m = config.model
  return [(m.kind in ('wavernn', 'subscale'), 'kind', m.kind, "'wavernn' or 'subscale'"),
          _dual_softmax(m), (m.lanes == 1, 'lanes', m.lanes, '1'),
          *_sizes(m, {'units': 32, 'projection': 16})]


def _dual_softmax(model) -> tuple:
  return model.output == 'dual_softmax', 'output', model.output, "'dual_softmax'"


def _sizes(model, multiples: dict[str, int], why: str = '') -> list[tuple]:
  return [(getattr(model, field) % multiple == 0, field, getattr(model, field),
           f'a multiple of {multiple}{why}') for field, multiple in multiples.items()]


def _persistent(config: Config) -> list[tuple]:
  m = config.model
  return [
      (m.kind in ('wavernn', 'subscale'), 'kind', m.kind, "'wavernn' or 'subscale'"),
      _dual_softmax(m),
      (m.kind != 'subscale' or m.prediction == 'none', 'prediction', m.prediction,
       "'none' for a subscale model"),
      (not m.reset_bias, 'reset_bias', m.reset_bias, 'False')]


_JOINT = (_mel, _train, _pruning, _prediction, _gru, _output, _wavenet, _lanes)
# What a message begins with, the advice that it ends with, the rules.
PURPOSES = {
    'export': ('--mode=export, --engine=cpu',
               'synthesise and evaluate its run with --workdir=RUN and --engine=scan', _export),
    'cpu': ('--engine=cpu', 'use --engine=scan', _cpu),
    'persistent': ('--engine=pallas', 'use --engine=scan', _persistent)}
