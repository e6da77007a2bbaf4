"""Configurations: as JSON and back, differences, and values that cannot be."""

import dataclasses
import json

import pytest

from wavernn_jax import config as config_lib, config_rules
from wavernn_jax.errors import InputError


def _changed(**values):
  """A configuration with fields set: part__field=value."""
  config = config_lib.Config()
  for name, value in values.items():
    part, field = name.split('__')
    setattr(getattr(config, part), field, value)
  return config


def test_a_config_survives_json():
  config = _changed(model__units=32, data__dir='somewhere', mel__fmin=55.5, train__seed=7)
  config.init_from = 'RUN'
  read = config_lib.from_dict(json.loads(json.dumps(config_lib.to_dict(config))))
  assert read == config
  assert isinstance(read.mel, config_lib.MelConfig)
  assert read != config_lib.Config()


def test_presets_differ_from_each_other_and_an_unknown_one_lists_them():
  names = ('wavernn24k', 'tacotron2', 'hifigan', 'parallel_wavegan24k')
  presets = [dataclasses.replace(config_lib.mel_preset(n), name='') for n in names]
  assert all(a != b for i, a in enumerate(presets) for b in presets[:i])
  assert [config_lib.mel_preset(n).name for n in names] == list(names)
  with pytest.raises(InputError, match="'tacotron3'(?s:.*)tacotron2"):
    config_lib.mel_preset('tacotron3')


@pytest.mark.parametrize('where', ['config', 'config.model', 'config.mel'])
def test_an_unknown_field_is_named_with_its_place(where):
  tree = config_lib.to_dict(config_lib.Config())
  part = tree if where == 'config' else tree[where.removeprefix('config.')]
  part['unitz'] = 3
  with pytest.raises(InputError, match=f"^{where}: .*'unitz'"):
    config_lib.from_dict(tree)


def test_a_field_that_an_older_version_lacked_takes_its_default():
  tree = config_lib.to_dict(_changed(model__units=32))
  del tree['model']['kernel'], tree['evaluation'], tree['init_from']
  assert config_lib.from_dict(tree) == _changed(model__units=32)


def test_differences_name_the_field_and_both_values():
  a, b = (config_lib.to_dict(_changed(model__units=u, mel__fmin=f))
          for u, f in ((32, 0.0), (64, 20.0)))
  assert config_lib.differences(a, b) == {
      'config.model.units': (32, 64), 'config.mel.fmin': (0.0, 20.0)}
  assert config_lib.differences(a, a) == {}
  del b['init_from']
  assert config_lib.differences(a, b)['config.init_from'] == ('', None)


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
    config_rules.check(_changed(**{field: value}))
  assert f'{flag}: found {value!r}' in str(error.value)


SUBSCALE = {'model__kind': 'subscale', 'model__lanes': 16, 'model__horizon': 32}


def test_the_fields_of_a_subscale_model_are_possible():
  config_rules.check(_changed(**SUBSCALE))


@pytest.mark.parametrize('changes, message', [
    ({'model__kind': 'fast'}, "model.kind: found 'fast', expected 'wavernn', 'subscale' or 'f"),
    ({'model__kind': 'wavernn'}, 'model.lanes: found 16, expected 1, or --config.model.kind'),
    ({'model__lanes': 0}, 'model.lanes: found 0, expected in 1..256'),
    ({'model__horizon': -1}, 'model.horizon: found -1, expected 0 or more'),
    ({'model__context_layers': 0}, 'model.context_layers: found 0'),
    ({'model__context_channels': 0}, 'model.context_channels: found 0'),
    ({'model__context_kernel': 4}, 'model.context_kernel: found 4, expected a positive odd'),
    ({'model__context_block': 0}, 'model.context_block: found 0'),
    ({'train__crop': 968}, 'train.crop: found 968, expected a multiple of model.lanes = 16'),
    ({'model__horizon': 60}, 'model.horizon: found 60, expected less than the 60 positions'),
    ({'model__context_layers': 4}, 'model.horizon: found 32, expected at most 17, the reach'),
    ({'model__context_block': 64}, 'model.context_block: found 64.*divides the 4800 samples'),
    ({'mel__hop': 299}, 'model.context_block: found 50.*mel.hop = 299')])
def test_an_impossible_subscale_model_is_named_with_what_to_change(changes, message):
  with pytest.raises(InputError, match=message):
    config_rules.check(_changed(**SUBSCALE | changes))


FUSED = {'model__kind': 'fused', 'model__lanes': 2, 'model__horizon': 2}


@pytest.mark.parametrize('lanes, horizon', [(1, 0), (2, 2), (2, 74), (4, 2), (8, 1)])
def test_the_fields_of_a_fused_model_are_possible(lanes, horizon):
  config_rules.check(_changed(**FUSED | {'model__lanes': lanes, 'model__horizon': horizon}))


@pytest.mark.parametrize('changes, message', [
    ({'model__lanes': 3}, 'model.lanes: found 3, expected a power of two in 1..16'),
    ({'model__lanes': 0}, 'model.lanes: found 0, expected a power of two'),
    ({'model__lanes': 32}, 'model.lanes: found 32, expected a power of two in 1..16'),
    ({'model__horizon': -1}, 'model.horizon: found -1, expected 0 or more'),
    ({'model__horizon': 75}, 'model.horizon: found 75, expected at most 74.*mel.hop = 300'),
    ({'mel__hop': 11}, 'model.horizon: found 2, expected at most 1.*mel.hop = 11 lets be 5'),
    ({'model__units': 900}, 'model.units: found 900, expected a multiple of 8: four nibbles'),
    ({'train__crop': 961}, 'train.crop: found 961, expected a multiple of model.lanes = 2'),
    ({'mel__hop': 301, 'evaluation__block_frames': 3},
     'evaluation.block_frames: found 3, expected a number of frames of 301 samples')])
def test_an_impossible_fused_model_is_named_with_what_to_change(changes, message):
  with pytest.raises(InputError, match=message):
    config_rules.check(_changed(**FUSED | changes))


def test_a_run_of_before_there_were_kinds_is_a_plain_model():
  tree = config_lib.to_dict(config_lib.Config())
  for field in ('kind', 'lanes', 'horizon', *(f for f in tree['model'] if 'context' in f)):
    del tree['model'][field]
  assert config_lib.from_dict(tree).model.kind == 'wavernn'
  config_rules.check(config_lib.from_dict(tree))


def test_all_impossible_values_are_reported_together():
  with pytest.raises(InputError) as error:
    config_rules.check(_changed(model__units=7, train__batch=0, data__mels='x'))
  assert len(str(error.value).splitlines()) == 3


def test_defaults_are_possible():
  config_rules.check(config_lib.Config())
