"""Exported files: what is written is read, and nothing else is."""

import copy
import dataclasses
import hashlib
import json
import struct

import jax
import numpy as np
import pytest
from random_exports import (
  BLOCKS,
  MEL,
  TYPES,
  file_parts,
  packed_lanes,
  packed_run,
  refusal,
  rewritten_file,
  run_config,
  run_weights,
)
import random_models
import safetensors
import safetensors.numpy

from wavernn_jax import pruning
from wavernn_jax.config import Config
from wavernn_jax.errors import InputError
from wavernn_jax.sampling import blocksparse, export as export_lib, export_format


def _round_trip(export, folder):
  export_lib.write(folder / 'a.safetensors', export)
  assert [p.name for p in folder.iterdir()] == ['a.safetensors']
  return export_lib.read(folder / 'a.safetensors').packed


@pytest.mark.parametrize('block', BLOCKS)
@pytest.mark.parametrize(('weights', 'error'), [
    ('float32', 0), ('bfloat16', 2 ** -8), ('int8', 0.5 / 127)])
def test_what_is_read_is_what_was_written(tmp_path, weights, error, block):
  params, masks, config = run_weights(block)
  found = _round_trip(packed_run(block, weights), tmp_path)
  assert found.config == Config(model=config.model, mel=config.mel)
  assert found.weights == weights and found.block == block
  assert found.parameters == pruning.count_parameters(params, masks)
  expected = export_lib.flatten(params)
  for name, leaf in export_lib.flatten(found.params()).items():
    greatest = np.abs(expected[name]).max()
    atol = error * greatest if isinstance(
        found.tensors[name], blocksparse.PackedMatrix) else 0
    np.testing.assert_allclose(leaf, expected[name], atol=atol, rtol=0, err_msg=name)
    np.testing.assert_array_equal(leaf[expected[name] == 0], 0)


@pytest.mark.parametrize('block', BLOCKS)
@pytest.mark.parametrize('weights', TYPES)
def test_a_subscale_model_is_read_as_it_was_written(tmp_path, weights, block):
  export, params, masks = packed_lanes(block, weights)
  found = _round_trip(export, tmp_path)
  assert (found.config.model, found.config.mel) == (export.config.model, export.config.mel)
  assert found.config.evaluation.block_frames % 2 == 0  # what the lanes need
  assert found.parameters == pruning.count_parameters(params, masks)
  assert found.tensors.keys() == export.tensors.keys()
  for name, leaf in export_lib.flatten(export.params()).items():
    np.testing.assert_array_equal(export_lib.flatten(found.params())[name], leaf, err_msg=name)
  packed = {name for name, tensor in found.tensors.items() if export_lib.is_packed(tensor)}
  assert 'context.gates.kernel' in packed
  for name in packed:
    assert found.tensors[name].density < 1
  for name, leaf in export_lib.flatten(params).items():
    if name not in packed:
      np.testing.assert_allclose(
          export_lib.flatten(found.params())[name], leaf, rtol=1e-6, err_msg=name)


def _old(export, version):
  """A file as versions 1 and 2 had it."""
  header, tensors = file_parts(export_lib.to_bytes(export))
  for name, tensor in export.tensors.items():
    if export_lib.is_packed(tensor) and tensor.scales is not None:
      tensors[f'{name}.scales'] = tensor.scales[::tensor.block[0]].copy()
  config = {'model': header.pop('model'), 'mel': header['mel'], 'data': {'dir': '', 'gone': 1}}
  text = json.dumps(header | {'version': version, 'config': config})
  digest = hashlib.sha256(text.encode())
  for name in sorted(tensors):
    digest.update(tensors[name].tobytes())
  return safetensors.numpy.save(tensors, {'header': text, 'sha256': digest.hexdigest()})


def _with_row_scales(matrix):
  """Of int8, with one scale for all outputs of a block row."""
  outputs = matrix.block[0]
  greatest = np.abs(blocksparse.unpack(matrix)).reshape(len(matrix.offsets) - 1, -1).max(axis=1)
  scales = np.repeat(np.float32(np.where(greatest, greatest / 127, 1)), outputs)
  factors = (matrix.scales / scales).reshape(-1, outputs)  # at most 1
  row = np.repeat(np.arange(len(factors)), np.diff(matrix.offsets.astype(np.int64)))
  values = matrix.values * np.repeat(factors[row], 16 // outputs, axis=1)
  return dataclasses.replace(matrix, values=np.rint(values).astype(np.int8), scales=scales)


@pytest.mark.parametrize('block', BLOCKS)
@pytest.mark.parametrize('weights', TYPES)
@pytest.mark.parametrize('version', [1, 2])
def test_old_versions_of_the_format_are_read(tmp_path, version, weights, block):
  """Of int8 they have a scale for each block row."""
  export, path = packed_run(block, weights), tmp_path / 'a.safetensors'
  for name, tensor in export.tensors.items():
    if weights == 'int8' and export_lib.is_packed(tensor) and tensor.dtype == 'int8':
      export.tensors[name] = _with_row_scales(tensor)
  path.write_bytes(_old(export, version))
  found = export_lib.read(path).packed
  for name, leaf in export_lib.flatten(export.params()).items():
    np.testing.assert_array_equal(export_lib.flatten(found.params())[name], leaf, err_msg=name)
  damaged = bytearray(path.read_bytes())
  damaged[-1] ^= 1
  assert 'checksum' in refusal(bytes(damaged), tmp_path)


@pytest.mark.parametrize('prediction', ['none', 'spectral'])
def test_the_third_version_is_read_where_it_predicts_nothing(tmp_path, monkeypatch, prediction):
  config = run_config(prediction=prediction, taps=5)
  export = export_lib.pack(*random_models.pruned_run(config), config, 'bfloat16')
  monkeypatch.setattr(export_format, 'VERSION', 3)
  data = export_lib.to_bytes(export)
  monkeypatch.undo()
  if prediction == 'spectral':
    assert 'prediction of format versions before 4' in refusal(data, tmp_path)
  else:
    found = export_lib.from_bytes(data).params()
    jax.tree.map(np.testing.assert_array_equal, found, export.params())


def test_subscale_models_are_read_from_the_second_version_on(tmp_path):
  export, path = packed_lanes()[0], tmp_path / 'a.safetensors'
  path.write_bytes(_old(export, 2))
  found = export_lib.read(path).packed
  np.testing.assert_array_equal(found.params('context')['pairs'], export.params('context')['pairs'])
  assert 'subscale model in format version 1' in refusal(_old(export, 1), tmp_path)


def test_the_file_is_one_that_safetensors_reads_with_all_tensors_aligned():
  for export in (packed_run(weights='int8'), packed_lanes()[0], packed_run(sparsity=0.0)):
    data = export_lib.to_bytes(export)
    start = 8 + struct.unpack('<Q', data[:8])[0]
    entries = json.loads(data[8:start])
    del entries['__metadata__']
    assert start % 64 == 0 and len(entries) > len(export.tensors)
    assert all((start + entry['data_offsets'][0]) % 64 == 0 for name, entry in entries.items()
               if not name.startswith('padding.'))
    found = dict(safetensors.deserialize(data))
    np.testing.assert_array_equal(
        np.frombuffer(found['coarse']['data'], np.float32), export.tensors['coarse'].ravel())
    padding = [tensor['data'] for name, tensor in found.items() if name.startswith('padding.')]
    assert padding and not any(any(bytes(p)) for p in padding)


def test_the_header_holds_what_a_reader_needs_and_nothing_of_training():
  header, _ = file_parts(export_lib.to_bytes(packed_run()))
  assert set(header) == {'format', 'version', 'weights', 'block', 'parameters', 'sample_rate',
                         'model', 'mel'}
  assert header['version'] == 4 and header['mel'] == export_lib.to_dict(MEL)
  assert header['model'] == {
      'kind': 'wavernn', 'units': 32, 'projection': 16, 'channels': 8, 'layers': 2, 'kernel': 3,
      'compute_dtype': 'float32', 'activations': 'float32', 'prediction': 'none',
      'reset_bias': False}
  lanes, _ = file_parts(export_lib.to_bytes(packed_lanes()[0]))
  assert lanes['model']['horizon'] == 3 and lanes['model']['context_block'] == 2
  spectral, _ = file_parts(export_lib.to_bytes(_spectral()))
  assert (spectral['model']['taps'], spectral['model']['residuals']) == (6, 3)


def _spectral():
  config = run_config(prediction='spectral', taps=6, residuals=3, reset_bias=True)
  return export_lib.pack(*random_models.pruned_run(config), config, 'float32')


def test_a_model_of_residuals_with_a_reset_bias_is_read_as_it_was_written(tmp_path):
  export = _spectral()
  found = _round_trip(export, tmp_path)
  assert found.config.model == export.config.model
  expected = export_lib.flatten(random_models.pruned_run(export.config)[0])
  leaves = export_lib.flatten(found.params())
  assert leaves.keys() == expected.keys() >= {'prior', 'reset_bias'}
  for name, leaf in expected.items():
    np.testing.assert_allclose(leaves[name], leaf, rtol=1e-6, err_msg=name)
  _, tensors = file_parts(export_lib.to_bytes(export))
  np.testing.assert_array_equal(tensors['recurrent.e.bias'], leaves['reset_bias'])
  np.testing.assert_array_equal(tensors['previous'], leaves['previous'])  # no gains


@pytest.mark.parametrize('fields', [random_models.SUBSCALE, random_models.FUSED],
                         ids=['subscale', 'fused'])
def test_lanes_of_residuals_are_read_as_they_were_written(fields, tmp_path):
  model = dataclasses.replace(fields, units=32, channels=16, prediction='spectral', taps=9,
                              taps_ahead=6, residuals=Config().model.residuals)
  config = Config(model=model, mel=random_models.FUSED_MEL)
  config.evaluation.block_frames = 2
  params, masks = random_models.pruned_run(config)
  found = _round_trip(export_lib.pack(params, masks, config, 'float32'), tmp_path)
  assert found.config.model == model
  leaves = export_lib.flatten(found.params())
  for name, leaf in export_lib.flatten(params).items():
    np.testing.assert_array_equal(leaves[name], leaf, err_msg=name)


def test_what_a_reader_does_not_know_is_ignored(tmp_path):
  def header(found):
    found['voice'] = found['model']['tempo'] = found['mel']['colour'] = {'new': [1]}

  def tensors(found):
    found['more'] = np.zeros(3, np.uint16)
  path, export = tmp_path / 'a.safetensors', packed_run(weights='float32')
  path.write_bytes(rewritten_file(export, header, tensors))
  found = export_lib.read(path).packed
  assert found.config == Config(model=export.config.model, mel=MEL)
  assert found.tensors.keys() == export.tensors.keys()


def test_pruned_blocks_take_no_space():
  masks, tensors = export_lib.flatten(run_weights()[1]), packed_run().tensors
  for name in ('recurrent.u', 'outputs.fine.hidden.kernel'):
    assert 0.3 < tensors[name].density < 0.7
    assert tensors[name].blocks == masks[name].sum()
  dense = packed_run(weights='float32', sparsity=0.0)
  matrices = [t for t in dense.tensors.values() if export_lib.is_packed(t)]
  assert len(matrices) == 8 and all(t.density == 1 for t in matrices)
  assert dense.block == (16, 1)
  params = run_weights(sparsity=0.0)[0]
  assert dense.parameters == sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize('block', [(1, 1), (32, 1), (2, 8)])
def test_blocks_of_other_shapes_are_packed_as_columns(block):
  config = run_config(block)
  config.pruning.hidden = config.pruning.output = 0.0
  params, masks = random_models.pruned_run(config)
  found = export_lib.pack(params, masks, config, 'float32')
  assert found.block == (16, 1) and found.parameters == pruning.count_parameters(params, masks)
  np.testing.assert_array_equal(found.params('recurrent')['u'], params['recurrent']['u'])


def test_local_paths_stay_at_home():
  config = copy.deepcopy(run_config())
  config.data.dir, config.init_from = '/home/me/voices', '/home/me/run'
  assert b'/home/me' not in export_lib.to_bytes(export_lib.pack(*run_weights()[:2], config))


@pytest.mark.parametrize(('changes', 'options', 'reason'), [
    ({}, {'weights': 'float16'}, 'weights=float16'),
    ({'sparsity': 0.0}, {'sparse_only': True}, 'sparse_only: no matrix'),
    ({'units': 24, 'sparsity': 0.0}, {}, 'model.units = 24, expected a multiple of 16')])
def test_what_cannot_be_exported_is_refused(changes, options, reason):
  config = run_config(**changes)
  params, masks = random_models.pruned_run(config)
  with pytest.raises(InputError, match=reason):
    export_lib.pack(params, masks, config, **options)


def test_a_folder_that_does_not_exist_is_an_error(tmp_path):
  with pytest.raises(InputError, match='cannot be written'):
    export_lib.write(tmp_path / 'nowhere' / 'a.safetensors', packed_run())
  with pytest.raises(InputError, match='cannot be read'):
    export_lib.read(tmp_path / 'a.safetensors')
  with pytest.raises(InputError, match='found a folder'):
    export_lib.read(tmp_path)
