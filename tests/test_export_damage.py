"""Exports that are damaged or inconsistent are refused by name."""

import functools
import re
import struct

import numpy as np
import pytest
from random_exports import TYPES, file_parts, packed_lanes, packed_run, refusal, rewritten_file
import safetensors
import safetensors.numpy

from wavernn_jax.errors import InputError
from wavernn_jax.sampling import export as export_lib

R_U = 'recurrent.u'


@pytest.mark.parametrize('weights', TYPES)
def test_no_flipped_bit_goes_unnoticed(tmp_path, weights):
  data, rng = export_lib.to_bytes(packed_run(weights=weights)), np.random.default_rng(0)
  header = 8 + struct.unpack('<Q', data[:8])[0]
  places = [*range(10), *rng.integers(header, size=120), *rng.integers(len(data), size=40)]
  for place in places:
    flipped = bytearray(data)
    flipped[place] ^= 1 << rng.integers(8)
    refusal(bytes(flipped), tmp_path)


def test_truncated_extended_and_foreign_files_are_refused(tmp_path):
  data = export_lib.to_bytes(packed_run())
  cuts = [0, 1, 8, 9, 100, *np.linspace(101, len(data) - 1, 30).astype(int)]
  for bad in [data[:cut] for cut in cuts] + [data + b'\0', bytes(len(data)), b'PK' * 500]:
    refusal(bad, tmp_path)
  foreign = safetensors.numpy.save({'a': np.zeros(3)})
  assert 'no entry `header`' in refusal(foreign, tmp_path)
  nested = safetensors.numpy.save({'a': np.zeros(3)}, {'header': '[' * 100_000})
  refusal(nested, tmp_path)


def test_a_rewritten_file_is_read(tmp_path):
  path = tmp_path / 'a.safetensors'
  path.write_bytes(rewritten_file(packed_run(weights='float32')))
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
  changed = rewritten_file(packed_run(weights='float32'), None, change)
  assert _matches(reason, refusal(changed, tmp_path))


@pytest.mark.parametrize(('change', 'reason'), [
    (_assign(f'{R_U}.values', (0, 0), -128), '-127..127'),
    (_assign(f'{R_U}.scales', 0, -1), '-127..127'),
    (_assign(f'{R_U}.scales', 0, np.nan), 'NaN or infinite')])
def test_int8_values_and_scales_are_checked(tmp_path, change, reason):
  changed = rewritten_file(packed_run(weights='int8'), None, change)
  assert _matches(reason, refusal(changed, tmp_path))


@pytest.mark.parametrize(('change', 'reason'), [
    (_assign('context.distances', (0, 0, 0, 0), np.nan), 'NaN or infinite'),
    (_assign('context.gates.kernel.indices', 0, 8), 'less than 8'),
    (lambda t: t.pop('context.pairs'), 'context.pairs is missing'),
    (lambda t: t.pop('context.layers.1.bias'), 'layers.1.bias is missing'),
    (_swap('context.pairs', 'context.embedding'), 'expected F32')])
def test_inconsistent_tensors_of_the_context_are_named(tmp_path, change, reason):
  assert _matches(reason, refusal(rewritten_file(packed_lanes()[0], None, change), tmp_path))


def _set(path, value):
  def change(header):
    *outer, last = path.split('.')
    functools.reduce(dict.__getitem__, outer, header)[last] = value
  return change


@pytest.mark.parametrize(('change', 'reason'), [
    (_set('format', 'other'), 'format'), (_set('version', 5), 'newer than 4'),
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
  export = packed_run(weights='float32')
  assert _matches(reason, refusal(rewritten_file(export, change), tmp_path))


@pytest.mark.parametrize(('change', 'reason'), [
    (_set('model.lanes', 2), 'tensor'), (_set('model.lanes', 1), 'tensor'),
    (_set('model.lanes', 300), '1 to 256'), (_set('model.horizon', 9), 'horizon'),
    (_set('model.context_layers', 3), 'tensor'), (_set('model.context_channels', 16), 'tensor'),
    (_set('model.context_kernel', 5), 'tensor'), (_set('model.context_block', 0), 'context_block'),
    (_set('model.context_block', 60_000), 'no block of frames'),
    (_set('model.kind', 'wavernn'), 'lanes')])
def test_wrong_header_fields_of_subscale_models_are_named(tmp_path, change, reason):
  assert _matches(reason, refusal(rewritten_file(packed_lanes()[0], change), tmp_path))


@pytest.mark.parametrize('value', [None, -1, 0, 2**70, 0.5, '', [], {}, True])
@pytest.mark.parametrize('lanes', [False, True])
def test_any_header_value_is_read_or_refused(tmp_path, value, lanes):
  """No other exception; what is read still has all the weights."""
  export = packed_lanes()[0] if lanes else packed_run(weights='float32')
  path = tmp_path / 'a.safetensors'
  header, _ = file_parts(export_lib.to_bytes(export))
  names = [*header, *(f'{part}.{name}' for part in ('model', 'mel') for name in header[part])]
  for name in names:
    path.write_bytes(rewritten_file(export, _set(name, value)))
    try:
      assert export_lib.read(path).packed.tensors.keys() == export.tensors.keys()
    except InputError as error:
      assert str(path) in str(error)


def _matches(reason, message):
  return re.search(reason, message) is not None
