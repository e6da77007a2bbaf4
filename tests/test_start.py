"""What a run starts from: another run or an export, with what is pruned in it."""

import copy
import dataclasses

import jax
import numpy as np
import pytest
import random_models

from experiments.configs import pretrained
from wavernn_jax import check, commands, config as config_lib, pruning
from wavernn_jax.config import PruningConfig
from wavernn_jax.errors import InputError
from wavernn_jax.sampling import export
from wavernn_jax.training import checkpoints, loop, start, workdir


@pytest.fixture
def sparse_config(tiny_config):
  tiny_config.model.units = tiny_config.model.projection = 32
  tiny_config.train.steps, tiny_config.train.eval_every = 6, 6
  tiny_config.pruning = PruningConfig(recurrent=0.75, hidden=0.5, start=0, steps=5, interval=1)
  return tiny_config


@pytest.fixture
def exported(sparse_config, tmp_path):
  """(file of an export, its parameters, its masks)."""
  params, masks = random_models.pruned_run(sparse_config)
  file = tmp_path / 'a.safetensors'
  export.write(file, export.pack(params, masks, sparse_config, 'float32'))
  return file, params, masks


def fraction(tree):
  return np.mean([np.mean(np.asarray(x) == 0) for x in jax.tree.leaves(tree)])


def test_an_export_gives_its_weights_and_masks(sparse_config, exported):
  file, params, masks = exported
  state = start.first_state(dataclasses.replace(sparse_config, init_from=str(file)))
  assert int(state['step']) == 0
  for kind in ('params', 'ema'):
    jax.tree.map(np.testing.assert_array_equal, state[kind], params)
  assert jax.tree.structure(state['masks']) == jax.tree.structure(masks)
  jax.tree.map(np.testing.assert_array_equal, state['masks'], masks)
  assert not all(np.all(m) for m in jax.tree.leaves(masks))


def test_a_run_goes_on_from_an_export_and_what_is_pruned_stays_so(
    sparse_config, exported, tmp_path):
  file, params, masks = exported
  config = dataclasses.replace(sparse_config, init_from=str(file))
  # A schedule that asks for less than the export has pruned, step by step.
  config.pruning = dataclasses.replace(config.pruning, recurrent=0.25, hidden=0.25)
  assert loop.train(config, tmp_path / 'run') == 6
  voice = checkpoints.load(tmp_path / 'run')
  jax.tree.map(np.testing.assert_array_equal, voice.masks, masks)
  applied = pruning.apply_masks(voice.params, masks)
  jax.tree.map(np.testing.assert_array_equal, voice.params, applied)
  assert any((np.asarray(a) != np.asarray(b)).any() for a, b in zip(
      jax.tree.leaves(voice.params), jax.tree.leaves(params), strict=True))


def test_masks_of_other_blocks_keep_every_block_with_a_weight(sparse_config, exported):
  file, params, _ = exported
  config = dataclasses.replace(sparse_config, init_from=str(file))
  config.pruning = dataclasses.replace(config.pruning, block_outputs=8, block_inputs=2)
  state = start.first_state(config)
  for gate, matrix in params['recurrent'].items():
    blocks = np.asarray(matrix).reshape(16, 2, 4, 8)
    np.testing.assert_array_equal(state['masks']['recurrent'][gate], (blocks != 0).any((1, 3)))


def test_matrices_that_lose_their_sparsity_are_named(sparse_config, exported):
  config = dataclasses.replace(sparse_config, init_from=str(exported[0]), pruning=PruningConfig())
  with pytest.warns(UserWarning, match=r'recurrent\.\w, .*are pruned there and become dense here'):
    state = start.first_state(config)
  assert jax.tree.leaves(state['masks']) == []


def test_the_bundled_export_can_be_gone_on_with():
  config = copy.deepcopy(export.read(commands.PRETRAINED).config)
  config.init_from = str(commands.PRETRAINED)
  config.pruning = pretrained.get_config().pruning
  state = start.first_state(config)
  kept = pruning.count_parameters(state['params'], state['masks'])
  assert kept == export.read(commands.PRETRAINED).packed.parameters


def broken(sources):
  return [pytest.param(*values, id=name) for name, values in sources.items()]


@pytest.mark.parametrize('name, reason', broken({
    'nowhere': ('nowhere', 'no such file or folder; expected a run, or a .safetensors'),
    'no run': ('empty', 'holds no run'),
    'no checkpoint': ('claimed', 'holds no complete checkpoint'),
    'no export': ('text.safetensors', 'is no usable export'),
    'other sizes': ('a.safetensors', r'config\.model\.units: 32 there, 16 here')}))
def test_what_cannot_be_started_from_blocks_no_folder(
    sparse_config, exported, tmp_path, name, reason):
  (tmp_path / 'empty').mkdir()
  (tmp_path / 'text.safetensors').write_text('no export')
  workdir.claim(tmp_path / 'claimed', sparse_config, '').close()
  config = dataclasses.replace(sparse_config, init_from=str(tmp_path / name))
  if name == 'a.safetensors':
    config.model = dataclasses.replace(config.model, units=16)
    config.pruning = PruningConfig()
  run = tmp_path / 'run'
  with pytest.raises(InputError, match=f'--config.init_from={tmp_path / name}.*{reason}'):
    loop.train(config, run)
  assert not run.exists()


def test_a_run_goes_on_though_what_it_began_with_is_gone(sparse_config, exported, tmp_path):
  config = dataclasses.replace(sparse_config, init_from=str(exported[0]))
  assert loop.train(config, tmp_path / 'run') == 6
  exported[0].unlink()
  assert loop.train(config, tmp_path / 'run') == 6


@pytest.mark.parametrize('section, values', [
    ('model', {'units': 16_384}), ('train', {'batch': 65_536, 'crop': 2**20})])
def test_what_memory_cannot_hold_is_refused_before_anything_is_written(
    tiny_config, tmp_path, section, values):
  setattr(tiny_config, section, dataclasses.replace(getattr(tiny_config, section), **values))
  with pytest.raises(InputError, match=r'a step needs more than [\d.]+ GB of memory, found [\d.]'):
    loop.train(tiny_config, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()
  check.check_memory(config_lib.Config())
