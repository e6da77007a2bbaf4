"""Exported files: what is written is read, and nothing else is."""

import copy
import functools
import hashlib
import json
import re
import struct

import jax
import ml_dtypes
import numpy as np
import pytest
import random_models
import safetensors
import safetensors.numpy

from wavernn_jax import pruning
from wavernn_jax.config import Config, MelConfig, ModelConfig, PruningConfig
from wavernn_jax.errors import InputError
from wavernn_jax.sampling import blocksparse, export as export_lib, export_format

MEL = MelConfig(name='tiny', sample_rate=800, n_fft=16, window=8, hop=4, bands=3, fmax=400.0)
NUMPY = {'F32': np.float32, 'BF16': ml_dtypes.bfloat16, 'I8': np.int8, 'U16': np.uint16,
         'U32': np.uint32}
TYPES, BLOCKS = list(blocksparse.DTYPES), list(blocksparse.SHAPES)
R_U = 'recurrent.u'


def _config(block=(16, 1), sparsity=0.6, **model):
  return Config(
      model=ModelConfig(**dict(units=32, projection=16, channels=8, layers=2) | model), mel=MEL,
      pruning=PruningConfig(recurrent=sparsity, hidden=sparsity, output=sparsity,
                            block_outputs=block[0], block_inputs=block[1], start=0, steps=1))


@functools.cache
def _run(block=(16, 1), sparsity=0.6):
  config = _config(block, sparsity)
  return *random_models.pruned_run(config), config


def _packed(block=(16, 1), weights='bfloat16', sparsity=0.6):
  return export_lib.pack(*_run(block, sparsity), weights)


@functools.cache
def _lanes(block=(16, 1), weights='float32'):
  config = _config(block, kind='subscale', lanes=4, horizon=3, context_layers=2,
                   context_channels=8, context_kernel=3, context_block=2)
  config.pruning.conditioning = 0.6
  params, masks = random_models.pruned_run(config)
  return export_lib.pack(params, masks, config, weights), params, masks


def _round_trip(export, folder):
  export_lib.write(folder / 'a.safetensors', export)
  assert [p.name for p in folder.iterdir()] == ['a.safetensors']
  return export_lib.read(folder / 'a.safetensors').packed


@pytest.mark.parametrize('block', BLOCKS)
@pytest.mark.parametrize(('weights', 'error'), [
    ('float32', 0), ('bfloat16', 2 ** -8), ('int8', 0.5 / 127)])
def test_what_is_read_is_what_was_written(tmp_path, weights, error, block):
  params, masks, config = _run(block)
  found = _round_trip(_packed(block, weights), tmp_path)
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
  export, params, masks = _lanes(block, weights)
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
  header, tensors = _parts(export_lib.to_bytes(export))
  for name, tensor in export.tensors.items():
    if export_lib.is_packed(tensor) and tensor.scales is not None:
      tensors[f'{name}.scales'] = tensor.scales[::tensor.block[0]].copy()
  config = {'model': header.pop('model'), 'mel': header['mel'], 'data': {'dir': '', 'gone': 1}}
  text = json.dumps(header | {'version': version, 'config': config})
  digest = hashlib.sha256(text.encode())
  for name in sorted(tensors):
    digest.update(tensors[name].tobytes())
  return safetensors.numpy.save(tensors, {'header': text, 'sha256': digest.hexdigest()})


@pytest.mark.parametrize('block', BLOCKS)
@pytest.mark.parametrize('weights', TYPES)
@pytest.mark.parametrize('version', [1, 2])
def test_old_versions_of_the_format_are_read(tmp_path, version, weights, block):
  """Of int8 they have a scale for each block row."""
  export, path = _packed(block, weights), tmp_path / 'a.safetensors'
  for name, tensor in export.tensors.items():
    if weights == 'int8' and export_lib.is_packed(tensor) and tensor.dtype == 'int8':
      mask = blocksparse.unpack(tensor).reshape(
          tensor.shape[0] // block[0], block[0], -1, block[1]).any(axis=(1, 3))
      export.tensors[name] = blocksparse.pack(
          blocksparse.unpack(tensor), block, 'int8', mask, row_scales=True)
  path.write_bytes(_old(export, version))
  found = export_lib.read(path).packed
  for name, leaf in export_lib.flatten(export.params()).items():
    np.testing.assert_array_equal(export_lib.flatten(found.params())[name], leaf, err_msg=name)
  damaged = bytearray(path.read_bytes())
  damaged[-1] ^= 1
  assert 'checksum' in _refused(bytes(damaged), tmp_path)


def test_subscale_models_are_read_from_the_second_version_on(tmp_path):
  export, path = _lanes()[0], tmp_path / 'a.safetensors'
  path.write_bytes(_old(export, 2))
  found = export_lib.read(path).packed
  np.testing.assert_array_equal(found.params('context')['pairs'], export.params('context')['pairs'])
  assert 'subscale model in format version 1' in _refused(_old(export, 1), tmp_path)


def test_the_file_is_one_that_safetensors_reads_with_all_tensors_aligned():
  for export in (_packed(weights='int8'), _lanes()[0], _packed(sparsity=0.0)):
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
  header, _ = _parts(export_lib.to_bytes(_packed()))
  assert set(header) == {'format', 'version', 'weights', 'block', 'parameters', 'sample_rate',
                         'model', 'mel'}
  assert header['version'] == 3 and header['mel'] == export_lib.to_dict(MEL)
  assert header['model'] == {
      'kind': 'wavernn', 'units': 32, 'projection': 16, 'channels': 8, 'layers': 2, 'kernel': 3,
      'compute_dtype': 'float32', 'prediction': 'none', 'reset_bias': False}
  lanes, _ = _parts(export_lib.to_bytes(_lanes()[0]))
  assert lanes['model']['horizon'] == 3 and lanes['model']['context_block'] == 2
  spectral, _ = _parts(export_lib.to_bytes(_spectral()))
  assert spectral['model']['taps'] == 6


def _spectral():
  config = _config(prediction='spectral', taps=6, reset_bias=True)
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
  _, tensors = _parts(export_lib.to_bytes(export))
  np.testing.assert_array_equal(tensors['recurrent.e.bias'], leaves['reset_bias'])
  np.testing.assert_array_equal(tensors['previous'], leaves['previous'])  # no gains


def test_what_a_reader_does_not_know_is_ignored(tmp_path):
  def header(found):
    found['voice'] = found['model']['tempo'] = found['mel']['colour'] = {'new': [1]}

  def tensors(found):
    found['more'] = np.zeros(3, np.uint16)
  path, export = tmp_path / 'a.safetensors', _packed(weights='float32')
  path.write_bytes(_rewritten(export, header, tensors))
  found = export_lib.read(path).packed
  assert found.config == Config(model=export.config.model, mel=MEL)
  assert found.tensors.keys() == export.tensors.keys()


def test_pruned_blocks_take_no_space():
  masks, tensors = export_lib.flatten(_run()[1]), _packed().tensors
  for name in ('recurrent.u', 'outputs.fine.hidden.kernel'):
    assert 0.3 < tensors[name].density < 0.7
    assert tensors[name].blocks == masks[name].sum()
  dense = _packed(weights='float32', sparsity=0.0)
  matrices = [t for t in dense.tensors.values() if export_lib.is_packed(t)]
  assert len(matrices) == 8 and all(t.density == 1 for t in matrices)
  assert dense.block == (16, 1)
  assert dense.parameters == sum(leaf.size for leaf in jax.tree.leaves(_run(sparsity=0.0)[0]))


@pytest.mark.parametrize('block', [(1, 1), (32, 1), (2, 8)])
def test_blocks_of_other_shapes_are_packed_as_columns(block):
  config = _config(block)
  config.pruning.hidden = config.pruning.output = 0.0
  params, masks = random_models.pruned_run(config)
  found = export_lib.pack(params, masks, config, 'float32')
  assert found.block == (16, 1) and found.parameters == pruning.count_parameters(params, masks)
  np.testing.assert_array_equal(found.params('recurrent')['u'], params['recurrent']['u'])


def test_local_paths_stay_at_home():
  config = copy.deepcopy(_config())
  config.data.dir, config.init_from = '/home/me/voices', '/home/me/run'
  assert b'/home/me' not in export_lib.to_bytes(export_lib.pack(*_run()[:2], config))


@pytest.mark.parametrize(('changes', 'options', 'reason'), [
    ({}, {'weights': 'float16'}, 'weights=float16'),
    ({'sparsity': 0.0}, {'sparse_only': True}, 'sparse_only: no matrix'),
    ({'units': 24, 'sparsity': 0.0}, {}, '72 outputs.*do not divide')])
def test_what_cannot_be_exported_is_refused(changes, options, reason):
  config = _config(**changes)
  params, masks = random_models.pruned_run(config)
  with pytest.raises(InputError, match=reason):
    export_lib.pack(params, masks, config, **options)


def test_a_folder_that_does_not_exist_is_an_error(tmp_path):
  with pytest.raises(InputError, match='cannot be written'):
    export_lib.write(tmp_path / 'nowhere' / 'a.safetensors', _packed())
  with pytest.raises(InputError, match='cannot be read'):
    export_lib.read(tmp_path / 'a.safetensors')
  with pytest.raises(InputError, match='found a folder'):
    export_lib.read(tmp_path)


# Damage


def _refused(data, folder):
  """The reason for which a file of these bytes is refused."""
  path = folder / 'damaged.safetensors'
  path.write_bytes(data)
  with pytest.raises(InputError) as caught:
    export_lib.read(path)
  assert str(path) in str(caught.value)
  return str(caught.value)


@pytest.mark.parametrize('weights', TYPES)
def test_no_flipped_bit_goes_unnoticed(tmp_path, weights):
  data, rng = export_lib.to_bytes(_packed(weights=weights)), np.random.default_rng(0)
  header = 8 + struct.unpack('<Q', data[:8])[0]
  places = [*range(10), *rng.integers(header, size=120), *rng.integers(len(data), size=40)]
  for place in places:
    flipped = bytearray(data)
    flipped[place] ^= 1 << rng.integers(8)
    _refused(bytes(flipped), tmp_path)


def test_truncated_extended_and_foreign_files_are_refused(tmp_path):
  data = export_lib.to_bytes(_packed())
  cuts = [0, 1, 8, 9, 100, *np.linspace(101, len(data) - 1, 30).astype(int)]
  for bad in [data[:cut] for cut in cuts] + [data + b'\0', bytes(len(data)), b'PK' * 500]:
    _refused(bad, tmp_path)
  foreign = safetensors.numpy.save({'a': np.zeros(3)})
  assert 'no entry `header`' in _refused(foreign, tmp_path)
  nested = safetensors.numpy.save({'a': np.zeros(3)}, {'header': '[' * 100_000})
  _refused(nested, tmp_path)


def _parts(data):
  """Header and tensors of a file, as `export_format.to_bytes` takes them."""
  header, tensors = export_format.from_bytes(data)
  return header, {
      name: np.frombuffer(t['data'], NUMPY[t['dtype']]).reshape(t['shape'])
      for name, t in tensors.items() if not name.startswith(export_format.PADDING)}


def _rewritten(export, change_header=None, change_tensors=None):
  """A file with other contents whose checksum is right."""
  header, tensors = _parts(export_lib.to_bytes(export))
  (change_header or (lambda h: None))(header)
  (change_tensors or (lambda t: None))(tensors)
  return export_format.to_bytes(header, tensors)


def test_a_rewritten_file_is_read(tmp_path):
  path = tmp_path / 'a.safetensors'
  path.write_bytes(_rewritten(_packed(weights='float32')))
  export_lib.read(path)


def _assign(name, index, value):
  def change(tensors):
    tensors[name] = tensors[name].copy()
    tensors[name][index] = value
  return change


def _swap(a, b):
  def change(tensors):
    tensors[a], tensors[b] = tensors[b], tensors[a]
  return change


@pytest.mark.parametrize(('change', 'reason'), [
    (_assign(f'{R_U}.offsets', 0, 1), 'must grow from 0'),
    (_assign(f'{R_U}.offsets', 1, 60_000), 'must grow from 0'),
    (_assign(f'{R_U}.offsets', -1, 2**32 - 1), 'is U16'),
    (_assign(f'{R_U}.indices', 0, 32), 'less than 32'),
    (_assign(f'{R_U}.indices', slice(None), 3), 'grow within a block row'),
    (_assign(f'{R_U}.values', (0, 0), np.nan), 'NaN or infinite'),
    (_assign('previous', (0, 0), np.inf), 'NaN or infinite'),
    (_swap(f'{R_U}.indices', f'{R_U}.offsets'), 'expected U32'),
    (_swap('coarse', 'previous'), 'expected F32'),
    (lambda t: t.pop('coarse'), 'coarse is missing'),
    (lambda t: t.update(previous=t['previous'].view(np.uint32)), 'is U32'),
])
def test_inconsistent_tensors_are_named(tmp_path, change, reason):
  assert _matches(reason, _refused(_rewritten(_packed(weights='float32'), None, change), tmp_path))


@pytest.mark.parametrize(('change', 'reason'), [
    (_assign(f'{R_U}.values', (0, 0), -128), '-127..127'),
    (_assign(f'{R_U}.scales', 0, -1), '-127..127'),
    (_assign(f'{R_U}.scales', 0, np.nan), 'NaN or infinite')])
def test_int8_values_and_scales_are_checked(tmp_path, change, reason):
  assert _matches(reason, _refused(_rewritten(_packed(weights='int8'), None, change), tmp_path))


@pytest.mark.parametrize(('change', 'reason'), [
    (_assign('context.distances', (0, 0, 0, 0), np.nan), 'NaN or infinite'),
    (_assign('context.gates.kernel.indices', 0, 8), 'less than 8'),
    (lambda t: t.pop('context.pairs'), 'context.pairs is missing'),
    (lambda t: t.pop('context.layers.1.bias'), 'layers.1.bias is missing'),
    (_swap('context.pairs', 'context.embedding'), 'expected F32')])
def test_inconsistent_tensors_of_the_context_are_named(tmp_path, change, reason):
  assert _matches(reason, _refused(_rewritten(_lanes()[0], None, change), tmp_path))


def _set(path, value):
  def change(header):
    *outer, last = path.split('.')
    functools.reduce(dict.__getitem__, outer, header)[last] = value
  return change


@pytest.mark.parametrize(('change', 'reason'), [
    (_set('format', 'other'), 'format'), (_set('version', 4), 'newer than 3'),
    (_set('version', 0), 'version'), (_set('version', True), 'version'),
    (_set('weights', 'int8'), 'tensor'),
    (_set('weights', 'float64'), 'float64'), (_set('block', [4, 4]), 'expected'),
    (_set('block', [16.5, 1]), 'blocks'), (_set('block', [[], {}]), 'blocks'),
    (_set('parameters', 10**9), 'weights'), (_set('parameters', -1), 'parameters'),
    (_set('parameters', True), 'parameters'), (_set('sample_rate', 801), 'disagree'),
    (_set('mel.hop', 0), 'hop'), (_set('mel.log', '3'), 'log'),
    (lambda h: h['mel'].pop('center'), "mel lacks the fields \\['center'\\]"),
    (lambda h: h['model'].pop('units'), "model lacks the fields \\['units'\\]"),
    (lambda h: h.pop('mel'), "wrong: \\['mel'\\]"), (lambda h: h.pop('model'), 'model'),
    (_set('model.units', 64), 'tensor'), (_set('model.kind', 'wavenet'), 'wavenet'),
    (_set('model.units', 10**12), '16,384'), (_set('model.units', 'x'), 'units'),
    (_set('model.units', 33), 'even'), (_set('model.layers', 10**9), 'expected at most'),
    (_set('model', 3), 'model'), (_set('model.reset_bias', True), 'recurrent.e.bias is missing'),
    (_set('model.prediction', 'magic'), 'magic'), (_set('model.prediction', 'spectral'), 'taps'),
    (_set('mel.clamp', float('nan')), 'clamp'), (_set('mel.fmax', 10**400), 'fmax')])
def test_wrong_header_fields_are_named(tmp_path, change, reason):
  export = _packed(weights='float32')
  assert _matches(reason, _refused(_rewritten(export, change), tmp_path))


@pytest.mark.parametrize(('change', 'reason'), [
    (_set('model.lanes', 2), 'tensor'), (_set('model.lanes', 1), 'tensor'),
    (_set('model.lanes', 300), '1 to 256'), (_set('model.horizon', 9), 'horizon'),
    (_set('model.context_layers', 3), 'tensor'), (_set('model.context_channels', 16), 'tensor'),
    (_set('model.context_kernel', 5), 'tensor'), (_set('model.context_block', 0), 'context_block'),
    (_set('model.context_block', 60_000), 'no block of frames'),
    (_set('model.kind', 'wavernn'), 'lanes')])
def test_wrong_header_fields_of_subscale_models_are_named(tmp_path, change, reason):
  assert _matches(reason, _refused(_rewritten(_lanes()[0], change), tmp_path))


@pytest.mark.parametrize('value', [None, -1, 0, 2**70, 0.5, '', [], {}, True])
@pytest.mark.parametrize('lanes', [False, True])
def test_any_header_value_is_read_or_refused(tmp_path, value, lanes):
  """No other exception; what is read still has all the weights."""
  export = _lanes()[0] if lanes else _packed(weights='float32')
  path = tmp_path / 'a.safetensors'
  header, _ = _parts(export_lib.to_bytes(export))
  names = [*header, *(f'{part}.{name}' for part in ('model', 'mel') for name in header[part])]
  for name in names:
    path.write_bytes(_rewritten(export, _set(name, value)))
    try:
      assert export_lib.read(path).packed.tensors.keys() == export.tensors.keys()
    except InputError as error:
      assert str(path) in str(error)


def _matches(reason, message):
  return re.search(reason, message) is not None
