"""The files of a corpus: how they are split, and which are usable."""

import re
import warnings

import numpy as np
import pytest
import soundfile
import utterances
from utterances import RATE, SAMPLES, load

from wavernn_jax.config import DataConfig
from wavernn_jax.data import corpus as corpus_lib
from wavernn_jax.errors import InputError


@pytest.fixture
def folder(tmp_path, speech):
  return utterances.write(tmp_path, speech)


# Splits


def hash_split(folder, **config):
  config = {'valid_fraction': 0.2, 'test_fraction': 0.2} | config
  return corpus_lib.split_files(DataConfig(dir=str(folder), **config))


def touch(folder, names):
  folder.mkdir(exist_ok=True)
  for name in names:
    (folder / f'{name}.wav').touch()


def test_a_single_folder_is_split_by_name_and_adding_files_moves_none(tmp_path):
  touch(tmp_path, (f'speech_{i}' for i in range(100)))
  before = hash_split(tmp_path)
  assert before == hash_split(tmp_path)
  paths = [p for s in corpus_lib.SPLITS for p in before[s]]
  assert sorted(paths) == corpus_lib.find_audio(tmp_path)
  assert 10 <= len(before['valid']) <= 30 and 10 <= len(before['test']) <= 30
  touch(tmp_path, (f'more_{i}' for i in range(60)))
  touch(tmp_path / 'deeper', (f'speech_{i}' for i in range(10)))
  after = hash_split(tmp_path)
  for split in corpus_lib.SPLITS:
    assert set(before[split]) <= set(after[split])


def test_the_split_depends_on_names_below_the_folder_only(tmp_path):
  for name in 'ab':
    touch(tmp_path / name, range(30))
  a, b = ({s: [p.name for p in paths] for s, paths in hash_split(tmp_path / n).items()}
          for n in 'ab')
  assert a == b


@pytest.mark.parametrize('files', [3, 4, 7])
def test_no_split_is_empty_however_few_files(tmp_path, files):
  touch(tmp_path, range(files))
  split = hash_split(tmp_path, valid_fraction=0.001, test_fraction=0.001)
  assert {s: len(p) for s, p in split.items()} == {'train': files - 2, 'valid': 1, 'test': 1}


def test_too_few_files_to_split_is_an_error(tmp_path):
  touch(tmp_path, range(2))
  with pytest.raises(InputError, match='found 2 audio files, expected at least 3'):
    hash_split(tmp_path)


def test_three_folders_are_taken_as_they_are(corpus):
  split = corpus_lib.split_files(DataConfig(dir=str(corpus)))
  assert {s: {p.parent.name for p in paths} for s, paths in split.items()} == {
      s: {s} for s in corpus_lib.SPLITS}
  assert len(split['train']) == 4


def test_some_but_not_all_split_folders_is_an_error(tmp_path):
  touch(tmp_path / 'train', range(3))
  touch(tmp_path / 'test', range(3))
  with pytest.raises(InputError, match=r"\['train', 'test'\] but not \['valid'\]"):
    hash_split(tmp_path)


def test_no_audio_is_an_error_that_names_the_folder(tmp_path):
  (tmp_path / 'notes.txt').touch()
  (tmp_path / '._hidden.wav').touch()
  with pytest.raises(InputError, match=f'{tmp_path}: no audio found'):
    hash_split(tmp_path)
  with pytest.raises(InputError, match='nowhere: no such folder'):
    hash_split(tmp_path / 'nowhere')
  with pytest.raises(InputError, match='--config.data.dir is not set'):
    corpus_lib.split_files(DataConfig())


@pytest.mark.parametrize('check', [True, False])
def test_a_file_in_two_splits_is_rejected(tmp_path, mel, speech, check):
  shared = speech(0.3)
  soundfile.write(tmp_path / 'a.wav', shared, RATE, 'PCM_16')
  soundfile.write(tmp_path / 'b.wav', speech(0.3, seed=1), RATE, 'PCM_16')
  (tmp_path / 'test').mkdir()
  (tmp_path / 'test' / 'c.wav').symlink_to(tmp_path / 'a.wav')
  def check_splits(test_paths):
    config = DataConfig(check=check)
    corpus_lib.check_disjoint({
        split: corpus_lib.load_utterances(paths, config, mel, SAMPLES, keep_pcm=False)
        for split, paths in (('train', [tmp_path / 'a.wav']), ('test', test_paths))})
  check_splits([tmp_path / 'b.wav'])
  with pytest.raises(InputError, match=r'(?s)1 recordings.*a\.wav \(train\) = .*c\.wav \(test\)'):
    check_splits([tmp_path / 'b.wav', tmp_path / 'test' / 'c.wav'])


def test_the_same_samples_under_another_name_and_format_are_rejected(tmp_path, mel, speech):
  soundfile.write(tmp_path / 'a.wav', speech(0.3), RATE, 'PCM_16')
  soundfile.write(tmp_path / 'z.flac', speech(0.3), RATE, 'PCM_16')
  a, z = load(tmp_path, mel)
  with pytest.raises(InputError, match=r'a\.wav \(train\) = .*z\.flac \(valid\)'):
    corpus_lib.check_disjoint({'train': [a], 'valid': [z], 'test': []})
  corpus_lib.check_disjoint({'train': [a, z], 'valid': []})  # twice in one split misleads nobody


# Bad files


@pytest.fixture
def bad_files(tmp_path, speech):
  """One good file, and path -> what its error must say for one of every bad kind."""
  pcm = speech(0.5)
  good = tmp_path / 'good.wav'
  soundfile.write(good, pcm, RATE, 'PCM_16')
  soundfile.write(tmp_path / 'cut.flac', pcm, RATE, 'PCM_16')
  (tmp_path / 'cut.wav').write_bytes(good.read_bytes()[:3_000])
  (tmp_path / 'cut.flac').write_bytes((tmp_path / 'cut.flac').read_bytes()[:3_000])
  (tmp_path / 'text.wav').write_text('these are not the samples you are looking for ' * 50)
  (tmp_path / 'no_bytes.wav').touch()
  soundfile.write(tmp_path / 'no_samples.wav', pcm[:0], RATE, 'PCM_16')
  soundfile.write(tmp_path / 'one_sample.wav', pcm[:1], 48_000, 'PCM_16')
  soundfile.write(tmp_path / 'short.wav', pcm[:SAMPLES - 1], RATE, 'PCM_16')
  soundfile.write(tmp_path / 'nan.wav', np.where(np.arange(4_000) == 3_210, np.nan, pcm / 32_768),
                  RATE, 'FLOAT')
  soundfile.write(tmp_path / 'silent.wav', np.int16([1, -1] * 2_000), RATE, 'PCM_16')
  return good, {
      'cut.wav': 'truncated', 'cut.flac': 'truncated|damaged', 'text.wav': 'cannot be read',
      'no_bytes.wav': 'cannot be read', 'no_samples.wav': 'no samples',
      'one_sample.wav': 'too short', 'short.wav': 'too short: found 199 samples.* 200',
      'nan.wav': 'NaN', 'silent.wav': r'silent \(samples within -1..1\)',
      'missing.wav': 'no such file'}


def test_all_bad_files_are_listed_at_once_with_the_reason(tmp_path, mel, bad_files):
  good, reasons = bad_files
  paths = [good] + [tmp_path / name for name in reasons]
  with pytest.raises(InputError) as error:
    corpus_lib.load_utterances(paths, DataConfig(), mel, SAMPLES)
  message = str(error.value)
  assert f'{len(reasons)} of {len(paths)} audio files' in message
  assert '--config.data.skip_bad=true' in message and str(good) not in message
  for name, reason in reasons.items():
    line, = (line for line in message.splitlines() if f'/{name}: ' in line)
    assert re.search(reason, line), line


def test_bad_files_of_all_splits_are_listed_together(tmp_path, mel, bad_files):
  good, _ = bad_files
  files = {'train': [good, tmp_path / 'nan.wav'], 'valid': [good, tmp_path / 'cut.wav'],
           'test': [good, tmp_path / 'short.wav']}
  least = {'train': SAMPLES, 'valid': SAMPLES, 'test': 100}
  with pytest.raises(InputError, match=r'(?s)2 of 6.*nan\.wav.*cut\.wav'):
    corpus_lib.load_splits(files, DataConfig(), mel, least)


def test_skip_bad_leaves_out_exactly_those_and_says_how_many(tmp_path, mel, bad_files):
  good, reasons = bad_files
  paths = [tmp_path / name for name in reasons] + [good]
  with pytest.warns(UserWarning, match=f'{len(reasons)} of {len(paths)} audio files are left'):
    utterances = corpus_lib.load_utterances(paths, DataConfig(skip_bad=True), mel, SAMPLES)
  assert [u.path for u in utterances] == [good]
  with pytest.raises(InputError, match='none of 1 audio files'), warnings.catch_warnings():
    warnings.simplefilter('ignore')
    corpus_lib.load_utterances(paths[:1], DataConfig(skip_bad=True), mel, SAMPLES)


def test_without_the_check_headers_are_still_read(tmp_path, mel, bad_files):
  good, _ = bad_files
  paths = [good, *(tmp_path / f'{n}.wav' for n in ('text', 'no_samples', 'short', 'cut'))]
  with pytest.raises(InputError, match='4 of 5 audio files'):
    corpus_lib.load_utterances(paths, DataConfig(check=False), mel, SAMPLES, keep_pcm=False)
