"""The C library of runtime/ against the scan sampler of the same files."""

import concurrent.futures
import ctypes
import functools
import platform
import shutil
import subprocess

import contract
import numpy as np
import pytest
import random_models
import runtime_library
from runtime_library import (
  Program,
  RuntimeEngine,
  Stream,
  Voice,
  data,
  library,
  mel_of,
  packed,
  said,
)
import soundfile
import ties

from wavernn_jax import draw, models
from wavernn_jax.config import Config, ModelConfig, PruningConfig
from wavernn_jax.sampling import export as export_lib, scan, stream

if not shutil.which('gcc'):
  pytest.skip('gcc is not installed', allow_module_level=True)
COMPILERS = [c for c in ('gcc', 'clang') if shutil.which(c)]
KERNELS = ['portable', 'avx2', 'avx512'] if platform.machine() == 'x86_64' else ['neon', 'neon-dot']
SPECTRAL = (('prediction', 'spectral'), ('taps', 6))
# Nats: int8 rounds activations to 15 bits.
PACKINGS = [(weights, block, 1e-3 if weights == 'int8' else 1e-4)
            for weights in ('float32', 'bfloat16', 'int8') for block in ((16, 1), (4, 4))]
BYTES = (('activations', 'int8'),)
PACKING = pytest.mark.parametrize(('weights', 'block', 'nats'), PACKINGS)
FRAMES = 9


@functools.cache
def reference(key, temperatures=(1.0, 1.0)):
  """The scan sampler of the weights in a file."""
  export = packed(*key)
  return scan.ScanEngine(models.build(export.config), export.params(), temperatures, 4)


@PACKING
def test_it_is_an_engine(weights, block, nats):
  key = weights, block
  contract.verify_engine(lambda t: RuntimeEngine(packed(*key), t),
                         lambda t: reference(key, t), nats=nats)


@pytest.mark.parametrize(('fields', 'mel'), [
    (SPECTRAL, ()), ((('reset_bias', True),), ()), (SPECTRAL, (('center', False),)),
    (SPECTRAL, (('log', '10'), ('power', 2.0), ('mel_scale', 'htk'), ('mel_norm', 'none'))),
    ((('layers', 1), ('kernel', 5), ('units', 64)), (('center', False), ('hop', 6)))],
    ids=['spectral', 'reset bias', 'spectral, not centred', 'spectral, decimal', 'other sizes'])
def test_every_model_is_an_engine(fields, mel):
  key = 'bfloat16', (16, 1), fields, mel
  contract.verify_engine(lambda t: RuntimeEngine(packed(*key), t), lambda t: reference(key, t))


@pytest.mark.parametrize('block', [(16, 1), (4, 4)])
def test_activations_of_8_bits(block):
  """Those of the scan sampler, which rounds in float32; not those of 15 bits."""
  key = 'int8', block, BYTES
  contract.verify_engine(lambda t: RuntimeEngine(packed(*key), t), lambda t: reference(key, t),
                         nats=1e-3)
  mel = mel_of(packed(*key))
  pcm = np.random.default_rng(1).integers(-2**15, 2**15, 4 * FRAMES).astype(np.int16)
  found = [scored(('int8', block, fields), mel, pcm) for fields in (BYTES, ())]
  assert 3e-3 < np.abs(found[0] - found[1]).max() < 1


@PACKING
@pytest.mark.parametrize('kernel', KERNELS)
def test_every_set_of_kernels_gives_the_same_samples(kernel, weights, block, nats):
  del nats
  export = packed(weights, block, SPECTRAL)
  best = Voice(data(weights, block, SPECTRAL), library())
  try:
    other = Voice(data(weights, block, SPECTRAL), library(), kernel)
  except ValueError as error:
    pytest.skip(str(error))
  assert other.kernel == kernel
  pcm = said(best, mel_of(export))
  np.testing.assert_array_equal(said(other, mel_of(export)), pcm)
  assert len(np.unique(pcm)) > len(pcm) / 2


@pytest.mark.parametrize('fields', [(), (('prediction', 'spectral'), ('taps', 192))])
def test_one_second_is_that_of_the_scan_sampler(fields):
  config = Config(model=ModelConfig(units=64, projection=32, channels=16, layers=2,
                                    **dict(fields)))
  export = export_lib.pack(*random_models.pruned_run(config), config, 'float32')
  mels, keys = [random_models.log_mel(config.mel, 80)], draw.keys(0, [1])
  reference = scan.ScanEngine(models.build(config), export.params())
  found = said(Voice(export_lib.to_bytes(export), library()), mels[0], 0, 1)
  assert len(found) == config.mel.sample_rate
  ties.assert_same([found], stream.batch(reference, mels, keys), reference, mels, keys)


def programs():
  """Programs of every compiler, with sanitisers, and for the other processor."""
  found = [pytest.param(c, options, (), id=f'{c} {name}') for c in COMPILERS
           for name, options in (('O3', ('-O3',)), ('sanitised', (
               # clang takes minutes to optimise what it has instrumented.
               '-O0' if c == 'clang' else '-O1', *runtime_library.SANITIZERS)))]
  missing = [p for p in (runtime_library.CROSS, runtime_library.EMULATOR) if not shutil.which(p)]
  marks = pytest.mark.skipif(bool(missing), reason=f'not installed: {" ".join(missing)}')
  return found + [pytest.param(
      runtime_library.CROSS, ('-static',), (runtime_library.EMULATOR,), marks=marks,
      id='aarch64')]


@pytest.mark.parametrize(('compiler', 'options', 'emulator'), programs())
def test_every_compiler_and_processor_gives_the_same(compiler, options, emulator):
  """Samples, of every packing those of the scan sampler, and nats."""
  program = Program(compiler, *options, emulator=emulator)
  kernels = ['neon', 'neon-dot'] if emulator else ['portable', '-']
  keys = [((weights, block, () if i % 2 else SPECTRAL), nats)
          for i, (weights, block, nats) in enumerate(PACKINGS)]
  for key, nats in [*keys, (('int8', (4, 4), BYTES), 1e-3)]:
    mel = mel_of(packed(*key))
    expected = stream.batch(reference(key), [mel], draw.keys(5, [7]))[0]
    pcm = np.random.default_rng(1).integers(-2**15, 2**15, len(expected)).astype(np.int16)
    for kernel in kernels:
      found, printed = program.say(data(*key), mel, 5, 7, 1.0, kernel)
      assert kernel in ('-', printed.split()[0])
      np.testing.assert_array_equal(found, expected)
      scores, _ = program.score(data(*key), mel, pcm, kernel)
      assert scores.min() > 0 and scores.mean() > 3
      np.testing.assert_allclose(scores, scored(key, mel, pcm), rtol=nats, atol=nats)


def scored(key, mel_FxM, pcm) -> np.ndarray:
  """Nats of the library in this process, which `verify_engine` compares with the model's."""
  speaker = Stream(Voice(data(*key), library()))
  assert speaker.push(mel_FxM) == len(mel_FxM)
  speaker.end()
  return speaker.score(pcm)


def test_nothing_is_allocated_after_a_stream_is_made():
  program = Program('gcc', *runtime_library.COUNTED)
  _, printed = program.say(data('int8', (4, 4), SPECTRAL), mel_of(packed()))
  during, total = (int(word) for word in printed.split() if word.isdigit())
  assert during == 0 and total >= 4


def test_streams_of_one_voice_on_threads():
  export = packed('int8', (4, 4), SPECTRAL)
  voice, mel = Voice(data('int8', (4, 4), SPECTRAL), library()), mel_of(export, 400)
  alone = [said(voice, mel, 1, utterance) for utterance in range(4)]
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    together = list(pool.map(lambda u: said(voice, mel, 1, u), range(4)))
  contract.assert_same(together, alone)
  assert (alone[0] != alone[1]).mean() > 0.5


@pytest.mark.parametrize(('layers', 'center', 'ahead'), [
    (2, True, 4), (2, False, 3), (1, True, 3), (1, False, 2)])
def test_the_first_sample_comes_after_as_many_frames_as_it_says(layers, center, ahead):
  """A frame for each layer of kernel 3, and the two between which a sample lies."""
  key = 'float32', (16, 1), SPECTRAL + (('layers', layers),), (('center', center),)
  voice, mel = Voice(data(*key), library()), mel_of(packed(*key))
  speaker = Stream(voice)
  assert voice.info.ahead == ahead and voice.info.hop == 4
  assert speaker.push(mel[:ahead - 1]) and not len(speaker.pull(1))
  assert speaker.push(mel[ahead - 1:ahead]) and len(speaker.pull(1))


def test_a_stream_of_python_with_one_layer_speaks_after_three_frames():
  """In blocks of one frame; one in the library waits no longer."""
  export = packed('float32', (16, 1), (('layers', 1),))
  engine = scan.ScanEngine(models.build(export.config), export.params(), (1.0, 1.0), 1)
  taken = []

  def frames():
    for frame_M in mel_of(export):
      taken.append(1)
      yield frame_M[None]

  first = next(stream.stream(engine, frames(), draw.keys(0, [0])))
  assert len(taken) == 3 and len(first) == export.config.mel.hop
  np.testing.assert_array_equal(
      first, said(Voice(export_lib.to_bytes(export), library()), mel_of(export))[:4])


def test_a_stream_takes_no_more_than_it_can_hold_and_no_frame_that_is_none():
  voice, mel = Voice(data(), library()), mel_of(packed(), 50)
  speaker = Stream(voice)
  mel[3, 1] = np.nan
  assert speaker.push(mel) == 3 and speaker.push(mel[3:]) == 0
  mel[3, 1] = 0
  assert 0 < speaker.push(mel[3:]) < 47 and speaker.push(mel) == 0
  assert len(speaker.pull(10_000)) and speaker.push(mel) > 0
  speaker.end()
  assert speaker.push(mel) == 0
  for wrong in (-1, 101, np.nan):
    assert library().wavernn_temperatures(
        speaker.handle, ctypes.c_float(wrong), ctypes.c_float(1)) == 7


def test_the_code_is_small_and_so_is_its_memory():
  """Less than 100 kB of code, for all processors; 1 MB beside the file of a large voice."""
  sizes = subprocess.run(['size', '-A', str(runtime_library.build('gcc', '-O3'))], check=True,
                         capture_output=True, text=True).stdout
  text = {line.split()[0]: int(line.split()[1]) for line in sizes.splitlines()
          if line.startswith('.')}
  assert 10_000 < text['.text'] < 100_000
  config = Config(model=ModelConfig(units=1024, projection=512, prediction='spectral'),
                  pruning=PruningConfig(recurrent=0.5, start=0, steps=1))
  export = export_lib.pack(*random_models.pruned_run(config), config, 'int8')
  voice = Voice(export_lib.to_bytes(export), library())
  stream_bytes, voice_bytes = library().wavernn_stream_bytes(voice.handle), library(
      ).wavernn_voice_bytes(voice.handle)
  assert 4 * 1024 < stream_bytes and stream_bytes + voice_bytes < 1_000_000


@pytest.mark.parametrize('how', ['cc', 'cmake'])
def test_the_example_speaks(how, tmp_path):
  """As the README builds it."""
  if not shutil.which(how):
    pytest.skip(f'{how} is not installed')
  source = runtime_library.SOURCE
  if how == 'cmake':
    subprocess.run(['cmake', '-S', source, '-B', tmp_path], check=True, capture_output=True)
    subprocess.run(['cmake', '--build', tmp_path], check=True, capture_output=True)
  else:
    line = next(line for line in (source / 'README.md').read_text().splitlines()
                if line.strip().startswith('cc '))
    shutil.copytree(source, tmp_path, dirs_exist_ok=True)
    subprocess.run(line.strip(), shell=True, cwd=tmp_path, check=True)
  mel, key = mel_of(packed(), 40), ('bfloat16', (16, 1), SPECTRAL)
  (tmp_path / 'voice').write_bytes(data(*key))
  np.save(tmp_path / 'mel.npy', mel)
  say = [tmp_path / 'wavernn_say', tmp_path / 'voice', tmp_path / 'mel.npy', tmp_path / 'out.wav']
  printed = subprocess.run([*say, '3'], check=True, capture_output=True, text=True).stdout
  assert '0.20 s' in printed
  pcm, rate = soundfile.read(tmp_path / 'out.wav', dtype='int16')
  assert rate == packed().config.mel.sample_rate
  np.testing.assert_array_equal(pcm, said(Voice(data(*key), library()), mel, 3))
  halves = mel.astype(np.float16)
  np.save(tmp_path / 'mel.npy', np.asfortranarray(halves.T))  # as those of the demo
  subprocess.run([*say, '3'], check=True, capture_output=True)
  np.testing.assert_array_equal(
      soundfile.read(tmp_path / 'out.wav', dtype='int16')[0],
      said(Voice(data(*key), library()), halves.astype(np.float32), 3))
  halves[20, 0] = np.inf
  for unusable, reason in ((mel[:, 1:], 'expected a .npy file of float32 or float16'),
                           (mel.T.copy(), 'bands as the voice'), (mel.astype(float), 'float16'),
                           (halves, 'holds NaN or infinite')):
    np.save(tmp_path / 'mel.npy', unusable)
    wrong = subprocess.run(say, capture_output=True, text=True, check=False)
    assert wrong.returncode == 1 and reason in wrong.stderr
  with open(tmp_path / 'mel.npy', 'wb') as file:  # says more frames than a memory has room for
    np.lib.format.write_array_header_1_0(file, {
        'descr': '<f4', 'fortran_order': False, 'shape': (2**61, mel.shape[1])})
    file.write(mel.tobytes())
  wrong = subprocess.run(say, capture_output=True, text=True, check=False)
  assert wrong.returncode == 1 and 'no memory for the samples' in wrong.stderr
