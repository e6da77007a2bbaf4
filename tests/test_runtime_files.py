"""The C library of runtime/ reads what exports hold, and refuses everything else."""

import shutil

import numpy as np
import pytest
import runtime_library
from runtime_library import Program, Voice, VoiceError, data, library, mel_of, packed, said

from wavernn_jax.sampling import export_format

if not shutil.which('gcc'):
  pytest.skip('gcc is not installed', allow_module_level=True)
SPECTRAL = (('prediction', 'spectral'), ('taps', 6))


def changed(**fields) -> bytes:
  """A file whose header has other fields."""
  header, tensors = export_format.from_bytes(data())
  arrays = {name: np.frombuffer(t['data'], {'F32': np.float32, 'U16': np.uint16,
                                            'U32': np.uint32}[t['dtype']]).reshape(t['shape'])
            for name, t in tensors.items() if not name.startswith(export_format.PADDING)}
  return export_format.to_bytes({**header, **fields}, arrays)


@pytest.mark.parametrize(('file', 'code', 'message'), [
    (lambda: changed(version=3), 5, 'found format version 3, expected 4; export it again'),
    (lambda: changed(version=5), 5, 'found format version 5, expected 4.*update this library'),
    (lambda: changed(format='other'), 3, 'no format "wavernn-jax"'),
    (lambda: changed(weights='float16'), 6, r'weights: expected float32\|bfloat16\|int8'),
    (lambda: changed(block=[8, 2]), 6, r'block: expected \[16, 1\] or \[4, 4\]'),
    (lambda: changed(model={**vars(packed().config.model), 'kind': 'subscale'}), 6,
     'kind: expected wavernn'),
    (lambda: changed(model={**vars(packed().config.model), 'units': 64}), 3,
     'tensor conditioning.gates.bias is of another type or shape'),
    (lambda: changed(mel={}), 3, 'mel: lacks the field sample_rate'),
    (lambda: data()[:-1], 3, 'type, shape and place disagree'),
    (lambda: data()[:100], 3, 'cut short'), (lambda: b'', 3, 'found 0 bytes'),
    (lambda: data()[:-70] + b'\1' + data()[-69:], 4, 'its checksum is of other contents')])
def test_files_that_are_none_have_an_error_that_says_why(file, code, message):
  with pytest.raises(VoiceError, match=message) as caught:
    Voice(file(), library())
  assert caught.value.code == code
  assert library().wavernn_error_text(code) != library().wavernn_error_text(0)


def test_a_file_that_has_more_is_read():
  """Fields and tensors that it does not know."""
  export = packed()
  voice = Voice(changed(extra=[{'a': [None, True, -1.5e3, '\u00e9"\\']}]), library())
  np.testing.assert_array_equal(said(voice, mel_of(export)),
                                said(Voice(data(), library()), mel_of(export)))


def attack(tmp_path, count: int, seed: int) -> None:
  """Mutated files under sanitisers: each gives an error with a message, or speaks."""
  program = Program('gcc', '-O1', *runtime_library.SANITIZERS)
  files = [('float32', (16, 1), ()), ('int8', (4, 4), SPECTRAL), ('bfloat16', (4, 4), ()),
           ('int8', (16, 1), ())]
  for key in files:
    path = tmp_path / 'voice'
    path.write_bytes(data(*key))
    *codes, spoke = map(int, program.run('attack', path, count // len(files), seed).split())
    assert sum(codes) == count // len(files) and codes[1] == codes[2] == codes[7] == 0
    assert spoke == codes[0] > count / len(files) / 10  # what is mutated may not matter
    assert codes[3] > count / len(files) / 4 and codes[4] > 0


def test_mutated_files(tmp_path):
  attack(tmp_path, 1_000, 1)


@pytest.mark.slow
def test_100000_mutated_files(tmp_path):
  attack(tmp_path, 100_000, 2)
