"""Configurations: as JSON and back, differences and presets."""

import dataclasses
import json

import pytest
from random_models import changed_config

from wavernn_jax import config as config_lib
from wavernn_jax.errors import InputError


def test_a_config_survives_json():
  config = changed_config(model__units=32, data__dir='somewhere', mel__fmin=55.5, train__seed=7)
  config.init_from = 'RUN'
  read = config_lib.from_dict(json.loads(json.dumps(config_lib.to_dict(config))))
  assert read == config
  assert isinstance(read.mel, config_lib.MelConfig)
  assert read != config_lib.Config()


def test_presets_differ_from_each_other_and_an_unknown_one_lists_them():
  names = ('wavernn24k', 'tacotron2', 'hifigan', 'parallel_wavegan24k', 'vocos24k')
  presets = [dataclasses.replace(config_lib.mel_preset(n), name='') for n in names]
  assert all(a != b for i, a in enumerate(presets) for b in presets[:i])
  assert [config_lib.mel_preset(n).name for n in names] == list(names)
  assert set(config_lib.mel_presets()) == {*names, 'matcha'}
  alike = dataclasses.replace(config_lib.mel_preset('matcha'), name='hifigan')
  assert alike == config_lib.mel_preset('hifigan')
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
  tree = config_lib.to_dict(changed_config(model__units=32))
  del tree['model']['kernel'], tree['evaluation'], tree['init_from']
  assert config_lib.from_dict(tree) == changed_config(model__units=32)


def test_differences_name_the_field_and_both_values():
  a, b = (config_lib.to_dict(changed_config(model__units=u, mel__fmin=f))
          for u, f in ((32, 0.0), (64, 20.0)))
  assert config_lib.differences(a, b) == {
      'config.model.units': (32, 64), 'config.mel.fmin': (0.0, 20.0)}
  assert config_lib.differences(a, a) == {}
  del b['init_from']
  assert config_lib.differences(a, b)['config.init_from'] == ('', None)
