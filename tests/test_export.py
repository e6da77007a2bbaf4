"""Exported files: what is written is read, and nothing else is."""

import copy
import functools
import json
import re
import struct

import jax
import numpy as np
import pytest
import random_models
import safetensors
import safetensors.numpy

from wavernn_jax import pruning
from wavernn_jax.config import Config, MelConfig, ModelConfig, PruningConfig
from wavernn_jax.errors import InputError
from wavernn_jax.sampling import blocksparse, export as export_lib, export_checks

MEL = MelConfig(name='tiny', sample_rate=800, n_fft=16, window=8, hop=4, bands=3, fmax=400.0)
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
  assert found.config == config and found.weights == weights and found.block == block
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
  assert found.config == export.config
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


def test_the_first_version_of_the_format_is_still_read(tmp_path):
  export, params, _ = _lanes()
  gates = params['context']['gates']['kernel']

  def first(tensors):
    for field in ('offsets', 'indices', 'values'):
      tensors.pop(f'context.gates.kernel.{field}')
    tensors['context.gates.kernel'] = gates
  path = tmp_path / 'a.safetensors'
  path.write_bytes(_rewritten(export, _set('version', 1), first))
  found = export_lib.read(path).packed
  np.testing.assert_array_equal(found.params('context')['gates']['kernel'], gates)
  assert export_lib.is_packed(found.tensors['context.gates.kernel'])
  path.write_bytes(_rewritten(_packed(weights='float32'), _set('version', 1)))
  export_lib.read(path)  # of a model without lanes there is no difference


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
  with pytest.raises(InputError, match='cannot be read'):
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


def _rewritten(export, change_header=None, change_tensors=None):
  """A file with other contents whose checksum is right."""
  data = export_lib.to_bytes(export)
  tensors = safetensors.numpy.load(data.replace(b'"BF16"', b'"U16" '))
  start = 8 + struct.unpack('<Q', data[:8])[0]
  header = json.loads(json.loads(data[8:start])['__metadata__']['header'])
  (change_header or (lambda h: None))(header)
  (change_tensors or (lambda t: None))(tensors)
  text = json.dumps(header)
  digest = export_checks.checksum(text, {n: t.tobytes() for n, t in tensors.items()})
  return safetensors.numpy.save(tensors, {'header': text, 'sha256': digest})


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
    (lambda t: t.update(more=np.zeros(1)), "unknown tensors \\['more'\\]"),
    (lambda t: t.update(previous=t['previous'].astype(np.float64)), 'is F64'),
])
def test_inconsistent_tensors_are_named(tmp_path, change, reason):
  assert _matches(reason, _refused(_rewritten(_packed(weights='float32'), None, change), tmp_path))


@pytest.mark.parametrize(('change', 'reason'), [
    (_assign(f'{R_U}.values', (0, 0), -128), '-127..127'),
    (_assign(f'{R_U}.scales', 0, -1), '-127..127'),
    (_assign(f'{R_U}.scales', 0, np.nan), 'NaN or infinite')])
def test_int8_values_and_scales_are_checked(tmp_path, change, reason):
  export = _packed(weights='int8')
  gates = 'conditioning.gates.kernel'

  def changed(tensors):
    change(tensors)
    bits = tensors[f'{gates}.values']
    tensors[f'{gates}.values'] = bits.view(export_lib.ml_dtypes.bfloat16)

  assert _matches(reason, _refused(_rewritten(export, None, changed), tmp_path))


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
    (_set('format', 'other'), 'format'), (_set('version', 3), 'newer than 2'),
    (_set('version', 0), 'version'), (_set('weights', 'int8'), 'tensor'),
    (_set('weights', 'float64'), 'float64'), (_set('block', [4, 4]), 'expected'),
    (_set('block', [16.5, 1]), 'blocks'), (_set('block', [[], {}]), 'blocks'),
    (_set('parameters', 10**9), 'weights'), (_set('parameters', -1), 'parameters'),
    (_set('parameters', True), 'parameters'), (_set('sample_rate', 801), 'disagree'),
    (_set('mel.hop', 5), 'disagree'), (_set('mel.log', '10'), 'disagree'),
    (_set('config.mel.hop', 5), 'disagree'), (_set('config.model.units', 64), 'tensor'),
    (_set('config.model.units', 10**12), '16,384'), (_set('config.model.units', 'x'), 'units'),
    (_set('config.model.units', 33), 'even'), (_set('config.model.layers', 10**9), '1 to 64'),
    (_set('config.model.layers', 1), 'unknown tensors'), (_set('config.model', 3), 'fields'),
    (_set('config.model.depth', 3), 'unknown fields'), (_set('config', []), 'config'),
    (_set('config.mel.clamp', float('nan')), 'clamp'),
    (_set('config.optimizer.b1', 10**400), 'b1')])
def test_wrong_header_fields_are_named(tmp_path, change, reason):
  export = _packed(weights='float32')
  assert _matches(reason, _refused(_rewritten(export, change), tmp_path))


@pytest.mark.parametrize(('change', 'reason'), [
    (_set('config.model.lanes', 2), 'tensor'), (_set('config.model.lanes', 1), 'tensor'),
    (_set('config.model.lanes', 300), '1 to 256'), (_set('config.model.horizon', 9), 'horizon'),
    (_set('config.model.context_layers', 3), 'tensor'),
    (_set('config.model.context_channels', 16), 'tensor'),
    (_set('config.model.context_kernel', 5), 'tensor'),
    (_set('config.model.context_block', 7), 'context_block'),
    (_set('config.model.kind', 'wavernn'), 'lanes'), (_set('version', 1), 'tensor')])
def test_wrong_header_fields_of_subscale_models_are_named(tmp_path, change, reason):
  assert _matches(reason, _refused(_rewritten(_lanes()[0], change), tmp_path))


@pytest.mark.parametrize('value', [None, -1, 0, 2**70, 0.5, '', [], {}, True])
@pytest.mark.parametrize('lanes', [False, True])
def test_any_header_value_is_read_or_refused(tmp_path, value, lanes):
  """No other exception; what is read still has all the weights."""
  export = _lanes()[0] if lanes else _packed(weights='float32')
  path, config = tmp_path / 'a.safetensors', export_lib.to_dict(export.config)
  if lanes:
    config = {'model': config['model']}
  names = export_lib.flatten({'config': json.loads(json.dumps(config)),
                              'mel': export_lib.to_dict(MEL)})
  for name in names:
    path.write_bytes(_rewritten(export, _set(name, value)))
    try:
      assert export_lib.read(path).packed.tensors.keys() == export.tensors.keys()
    except InputError as error:
      assert str(path) in str(error)


def _matches(reason, message):
  return re.search(reason, message) is not None
