"""Values that cannot be: each field by itself, fields together, and for a purpose."""

import dataclasses
import math

import pytest
from random_models import changed_config

from wavernn_jax import config as config_lib, fields, models, rules
from wavernn_jax.errors import InputError
from wavernn_jax.sampling import export


def _all_fields(config=None, where=''):
  """(name, default) of every field of every section."""
  for field in dataclasses.fields(config or config_lib.Config()):
    value = getattr(config or config_lib.Config(), field.name)
    if dataclasses.is_dataclass(value):
      yield from _all_fields(value, f'{field.name}.')
    else:
      yield where + field.name, value


def _with(name, value):
  config = config_lib.Config()
  *part, field = name.split('.')
  setattr(getattr(config, part[0]) if part else config, field, value)
  return config


def test_every_field_has_a_rule_and_every_rule_a_field():
  assert set(fields.RULES) == {name for name, _ in _all_fields()}


# Nonsense for a field of each type.
_NONSENSE = {float: (math.nan, math.inf, -math.inf, -1.0, 1e30, True, '1'),
             int: (-1, 10**10, 2**70, 1.5, math.nan, True, '1'),
             bool: (1, 'yes', None), str: ('a\0b', 3, None)}


@pytest.mark.parametrize('name', [name for name, _ in _all_fields()])
def test_nonsense_in_any_field_is_named_with_its_flag(name):
  default = dict(_all_fields())[name]
  for value in _NONSENSE[type(default)]:
    with pytest.raises(InputError) as error:
      rules.check(_with(name, value))
    assert f'--config.{name}: found {value!r}, expected ' in str(error.value)


@pytest.mark.parametrize('temperatures, flag', [
    ((math.nan, 1), 'coarse: found nan'), ((1, math.inf), 'fine: found inf'),
    ((-0.1, 1), 'coarse: found -0.1'), ((1, 1e9), 'fine: found 1000000000.0')])
def test_temperatures_that_cannot_be_are_named_with_their_flag(temperatures, flag):
  with pytest.raises(InputError, match=f'^--temperature_{flag}, expected 0 to 100; 0 takes'):
    rules.check_temperatures(temperatures)
  assert rules.check_temperatures((0, 1.5)) == (0, 1.5)


@pytest.mark.parametrize('field, value', [
    ('model__units', 895), ('model__units', 0), ('model__projection', 0),
    ('model__channels', -1), ('model__layers', 0), ('model__kernel', 4),
    ('model__compute_dtype', 'float16'), ('data__mels', 'files'),
    ('data__valid_fraction', 0.0), ('data__test_fraction', 0.5), ('data__workers', -1),
    ('optimizer__learning_rate', 0.0), ('optimizer__clip_norm', 0.0),
    ('optimizer__ema_decay', 1.0), ('optimizer__warmup_steps', -1),
    ('train__burn_in', 960), ('train__burn_in', -1), ('train__input_noise', -0.1),
    ('train__seed', -1), ('train__steps', 0), ('train__batch', 0), ('train__crop', 0),
    ('train__log_every', 0), ('train__eval_every', 0), ('train__save_every', 0),
    ('train__keep', 0), ('evaluation__batch', 0),
    ('evaluation__block_frames', 0), ('evaluation__bootstrap', 0)])
def test_an_impossible_value_is_named_with_its_flag(field, value):
  flag = '--config.' + field.replace('__', '.')
  with pytest.raises(InputError) as error:
    rules.check(changed_config(**{field: value}))
  assert f'{flag}: found {value!r}' in str(error.value)


SUBSCALE = {'model__kind': 'subscale', 'model__lanes': 16, 'model__horizon': 32}


def test_the_fields_of_a_subscale_model_are_possible():
  rules.check(changed_config(**SUBSCALE))


@pytest.mark.parametrize('changes, message', [
    ({'model__kind': 'fast'}, "model.kind: found 'fast', expected 'wavernn' or 'subscale' or 'f"),
    ({'model__kind': 'wavernn'}, 'model.lanes: found 16, expected 1, or --config.model.kind'),
    ({'model__lanes': 0}, 'model.lanes: found 0, expected 1 to 256'),
    ({'model__horizon': -1}, 'model.horizon: found -1, expected 0 to 65,536'),
    ({'model__context_layers': 0}, 'model.context_layers: found 0'),
    ({'model__context_channels': 0}, 'model.context_channels: found 0'),
    ({'model__context_kernel': 4}, 'model.context_kernel: found 4, expected an odd number, 1 to'),
    ({'model__context_block': 0}, 'model.context_block: found 0'),
    ({'train__crop': 968}, 'train.crop: found 968, expected a multiple of model.lanes = 16'),
    ({'model__horizon': 60}, 'model.horizon: found 60, expected less than the 60 positions'),
    ({'model__context_layers': 4}, 'model.horizon: found 32, expected at most 17, the reach'),
    ({'model__context_block': 64}, 'model.context_block: found 64.*divides the 4800 samples'),
    ({'mel__hop': 299}, 'model.context_block: found 50.*mel.hop = 299')])
def test_an_impossible_subscale_model_is_named_with_what_to_change(changes, message):
  with pytest.raises(InputError, match=message):
    rules.check(changed_config(**SUBSCALE | changes))


FUSED = {'model__kind': 'fused', 'model__lanes': 2, 'model__horizon': 2}


@pytest.mark.parametrize('lanes, horizon', [(1, 0), (2, 2), (2, 74), (4, 2), (8, 1)])
def test_the_fields_of_a_fused_model_are_possible(lanes, horizon):
  rules.check(changed_config(**FUSED | {'model__lanes': lanes, 'model__horizon': horizon}))


@pytest.mark.parametrize('changes, message', [
    ({'model__lanes': 3}, 'model.lanes: found 3, expected a power of two in 1..16'),
    ({'model__lanes': 0}, 'model.lanes: found 0, expected 1 to 256'),
    ({'model__lanes': 32}, 'model.lanes: found 32, expected a power of two in 1..16'),
    ({'model__horizon': -1}, 'model.horizon: found -1, expected 0 to 65,536'),
    ({'model__horizon': 75}, 'model.horizon: found 75, expected at most 74.*mel.hop = 300'),
    ({'mel__hop': 11}, 'model.horizon: found 2, expected at most 1.*mel.hop = 11 lets be 5'),
    ({'model__units': 900}, 'model.units: found 900, expected a multiple of 8: four nibbles'),
    ({'train__crop': 961}, 'train.crop: found 961, expected a multiple of model.lanes = 2'),
    ({'mel__hop': 301, 'evaluation__block_frames': 3},
     'evaluation.block_frames: found 3, expected a number of frames of 301 samples')])
def test_an_impossible_fused_model_is_named_with_what_to_change(changes, message):
  with pytest.raises(InputError, match=message):
    rules.check(changed_config(**FUSED | changes))


def test_a_run_of_before_there_were_kinds_is_a_plain_model():
  tree = config_lib.to_dict(config_lib.Config())
  for field in ('kind', 'lanes', 'horizon', *(f for f in tree['model'] if 'context' in f)):
    del tree['model'][field]
  assert config_lib.from_dict(tree).model.kind == 'wavernn'
  rules.check(config_lib.from_dict(tree))


@pytest.mark.parametrize('kind', [SUBSCALE, FUSED, {'model__kind': 'wavenet'}])
def test_only_the_plain_model_may_have_one_mixture(kind):
  kind = kind | {'model__output': 'mixture'}
  with pytest.raises(InputError, match="model.output: found 'mixture', expected 'dual_softmax' in"):
    rules.check(changed_config(**kind))
  rules.check(changed_config(model__output='mixture'))


def test_all_impossible_values_are_reported_together():
  with pytest.raises(InputError) as error:
    rules.check(changed_config(model__units=7, train__batch=0, data__mels='x'))
  assert len(str(error.value).splitlines()) == 3


def test_defaults_are_possible():
  rules.check(config_lib.Config())


@pytest.mark.parametrize('field, value, reason', [
    ('window', 4_096, 'at most n_fft = 2048'), ('hop', 1_300, 'at most window = 1200'),
    ('fmax', 13_000.0, 'at most half of sample_rate = 24000'), ('fmin', 12_500.0, 'below fmax'),
    ('log', '2', "'e' or '10'"), ('pad_mode', 'edge', 'reflect'), ('mel_norm', 'l1', 'slaney')])
def test_a_mel_convention_that_cannot_be_is_named_by_field(field, value, reason):
  with pytest.raises(InputError) as error:
    rules.check(changed_config(**{f'mel__{field}': value}))
  assert f'--config.mel.{field}: found {value!r}, expected' in str(error.value)
  assert reason in str(error.value)


def test_frames_that_are_not_centred_need_an_even_hop():
  with pytest.raises(InputError, match=r'mel\.hop: found 75, expected even'):
    rules.check(changed_config(mel__center=False, mel__hop=75))


def test_a_spoken_copy_has_at_least_a_frame():
  with pytest.raises(InputError, match='synthesize_seconds: found 0.001, expected at least a f'):
    rules.check(changed_config(evaluation__synthesize_seconds=0.001))
  rules.check(changed_config(evaluation__synthesize_seconds=0.001, evaluation__synthesize=0))


FOURS = {'pruning__block_outputs': 4, 'pruning__block_inputs': 4, 'pruning__recurrent': 0.5}
SUBSCALE_8 = SUBSCALE | {'model__lanes': 8, 'model__horizon': 2}
WAVENET = {'model__kind': 'wavenet'}


@pytest.mark.parametrize('changes', [
    {'model__units': 24}, {'model__projection': 40}, {'model__units': 48},
    FOURS | {'model__channels': 18}, FOURS | {'model__units': 24, 'model__projection': 20},
    FOURS | {'pruning__recurrent': 0.0, 'model__channels': 18},
    SUBSCALE_8 | FOURS | {'model__context_channels': 18}, SUBSCALE_8 | FOURS,
    SUBSCALE_8 | FOURS | {'model__context_channels': 18, 'model__prediction': 'spectral'}])
def test_an_export_is_ruled_out_exactly_where_it_cannot_be_packed(changes):
  config = changed_config(**{'model__units': 32, 'model__projection': 32, 'model__channels': 16,
                       'model__layers': 1, 'pruning__steps': 10} | changes)
  params = models.build(config).init(0)
  masks = export.pruning.initial_masks(params, config.pruning)
  try:
    export.pack(params, masks, config)
    packed = True
  except InputError:
    packed = False
  assert packed == rules.suits(config, 'export')


@pytest.mark.parametrize('purpose, changes, expected', [
    ('cpu', {'model__units': 48}, 'model.units = 48, expected a multiple of 32; use --engine=s'),
    ('cpu', {'model__projection': 40}, 'model.projection = 40, expected a multiple of 16'),
    ('cpu', FUSED, "model.kind = 'fused', expected 'wavernn' or 'subscale'; use --engine=scan"),
    ('cpu', SUBSCALE, 'model.lanes = 16, expected 1'),
    ('export', WAVENET, "model.kind = 'wavenet', expected a WaveRNN; synthesise and evaluate its"),
    ('export', FOURS | {'model__units': 20}, 'model.units = 20, expected a multiple of 8 for bl'),
    ('persistent', FUSED, "model.kind = 'fused', expected 'wavernn' or 'subscale'"),
    ('persistent', SUBSCALE | {'model__prediction': 'spectral', 'train__input_noise': 0.0},
     "model.prediction = 'spectral', expected 'none' for a subscale model"),
    ('persistent', {'model__reset_bias': True}, 'model.reset_bias = True, expected False'),
    *((purpose, {'model__output': 'mixture'}, "model.output = 'mixture', expected 'dual_softmax'")
      for purpose in rules.PURPOSES)])
def test_a_purpose_has_rules_of_its_own(purpose, changes, expected):
  rules.check(changed_config(**changes))
  with pytest.raises(rules.Unsuited, match=f'--engine=.*: found {expected}'):
    rules.check_suits(changed_config(**changes), purpose)
  rules.check_suits(config_lib.Config(), purpose)
  assert not rules.suits(changed_config(**changes), purpose)
