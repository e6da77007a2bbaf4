"""Data: crops against whole utterances, order and resuming, and every kind of bad file."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import soundfile
import soxr
import utterances
from utterances import RATE, SAMPLES, load

from wavernn_jax import audio
from wavernn_jax.data import corpus as corpus_lib, crops, mel_files
from wavernn_jax.errors import InputError

FRAMES, MARGIN = 8, 2  # of a crop of SAMPLES, at hop 50
SHAPE = crops.CropShape(SAMPLES, FRAMES, MARGIN)


@pytest.fixture
def folder(tmp_path, speech):
  return utterances.write(tmp_path, speech)


def as_batch(crop):
  return {name: np.asarray(value)[None] for name, value in crop.items()}


def expect_rows(mel_FxM, first, mel):
  """Frames first..first + FRAMES of an utterance, the floor outside it."""
  floor = np.full((50, mel.bands), audio.mel_floor(mel), np.float32)
  return np.concatenate([floor, mel_FxM, floor])[50 + first:50 + first + FRAMES]


def elements(batches, count):
  """The crops of the next batches, as bytes of their samples."""
  return [crop.tobytes() for _ in range(count) for crop in next(batches)['pcm']]


# Crops


@pytest.mark.parametrize('pad_mode', ['reflect', 'constant'])
@pytest.mark.parametrize('center', [True, False])
@pytest.mark.parametrize('samples', [2_400, 2_437])
def test_a_crop_has_the_frames_and_samples_of_the_whole_utterance(
    tmp_path, mel, speech, pad_mode, center, samples):
  mel = dataclasses.replace(mel, pad_mode=pad_mode, center=center)
  pcm = speech(samples / RATE)
  pcm[-3:] = 9_000  # an edge that is no silence
  soundfile.write(tmp_path / 'a.wav', pcm, RATE, 'PCM_16')
  utterance, = load(tmp_path, mel)
  whole = audio.utterance_log_mel(pcm, mel)
  silence_before = np.concatenate([[np.int16(0)], pcm])
  for start in range(0, samples - SAMPLES + 1, mel.hop):
    crop = crops.read_crop(utterance, start, SHAPE, mel)
    got_pcm, got_mel = crops.crop_inputs(as_batch(crop), mel)
    np.testing.assert_array_equal(got_pcm[0], silence_before[start:start + SAMPLES + 1])
    np.testing.assert_allclose(
        got_mel[0], expect_rows(whole, start // mel.hop - MARGIN, mel), atol=2e-5,
        err_msg=f'crop at {start}')


def test_seeking_gives_what_memory_gives(folder, mel):
  in_memory, on_disk = load(folder, mel), load(folder, mel, keep_pcm=False)
  too_big = load(folder, mel, cache_mb=0)
  assert all(u.pcm is not None for u in in_memory)
  assert all(u.pcm is None for u in on_disk + too_big)
  for a, b in zip(in_memory, on_disk, strict=True):
    for start in (0, 50, a.samples // 50 * 50 - SAMPLES):
      found, expected = (crops.read_crop(u, start, SHAPE, mel) for u in (a, b))
      for name, values in found.items():
        np.testing.assert_array_equal(values, expected[name])


def test_flac_gives_what_wav_gives(folder, tmp_path_factory, mel):
  flacs = tmp_path_factory.mktemp('flac')
  for path in corpus_lib.find_audio(folder):
    soundfile.write(flacs / f'{path.stem}.FLAC', *soundfile.read(path, dtype='int16'),
                    'PCM_16', format='FLAC')
  for keep_pcm in (True, False):
    a, b = (load(f, mel, keep_pcm=keep_pcm) for f in (folder, flacs))
    assert [u.digest for u in a] == [u.digest for u in b]
    assert [u.name for u in a] == [u.name for u in b]
    for u, v in zip(a, b, strict=True):
      np.testing.assert_array_equal(u.read(333, 777, RATE), v.read(333, 777, RATE))


@pytest.mark.parametrize('rate', [11_025, 16_000, 7_350])
def test_other_rates_are_resampled_with_a_warning_that_counts(tmp_path, mel, speech, rate):
  soundfile.write(tmp_path / 'a.wav', speech(0.5), RATE, 'PCM_16')
  for name, seconds in (('b', 0.5), ('c', 0.61237)):
    soundfile.write(tmp_path / f'{name}.wav', speech(seconds, rate), rate, 'PCM_16')
  with pytest.warns(UserWarning, match='2 of 3 files are resampled to 8000 Hz'):
    in_memory = load(tmp_path, mel)
  with pytest.warns(UserWarning, match='2 of 3'):
    on_disk = load(tmp_path, mel, keep_pcm=False, check=False)
  for name, u, v in zip('abc', in_memory, on_disk, strict=True):
    signal, found_rate = soundfile.read(tmp_path / f'{name}.wav')
    expected = soxr.resample(signal, found_rate, RATE, 'VHQ') * 32_768
    assert u.samples == v.samples == len(expected)
    np.testing.assert_allclose(u.pcm, expected, atol=0.51)
    np.testing.assert_array_equal(v.read(100, u.samples, RATE), u.pcm[100:])


def test_channels_are_averaged_with_a_warning_that_counts(tmp_path, mel, speech):
  left, right = speech(0.4, seed=1), speech(0.4, seed=2)
  soundfile.write(tmp_path / 'a.wav', np.stack([left, right], 1), RATE, 'PCM_16')
  with pytest.warns(UserWarning, match='1 of 1 files have several channels'):
    utterance, = load(tmp_path, mel)
  np.testing.assert_allclose(utterance.pcm, (left.astype(float) + right) / 2, atol=0.5)


# Order


def test_the_order_is_a_function_of_the_seed(folder, mel):
  def first(seed):
    return elements(crops.crop_batches(load(folder, mel), SHAPE, mel, 4, seed), 5)
  assert first(3) == first(3)
  assert first(3) != first(4)


def test_every_epoch_draws_new_crops(folder, mel):
  utterances = load(folder, mel)
  slots = sum(round(u.samples / SAMPLES) for u in utterances)
  batches = crops.crop_batches(utterances, SHAPE, mel, slots, 0)
  epochs = [tuple(elements(batches, 1)) for _ in range(3)]
  assert len({frozenset(e) for e in epochs}) == 3


def test_utterances_are_visited_in_proportion_to_their_length(folder, mel):
  utterances = load(folder, mel)
  counts = [round(u.samples / SAMPLES) for u in utterances]
  epoch = sum(counts)
  batches = crops.crop_batches(utterances, SHAPE, mel, epoch, 0)
  for _ in range(2):
    visits = np.zeros(len(utterances), int)
    for crop in next(batches)['pcm']:
      visits += [crop[1:].tobytes() in u.pcm.tobytes() for u in utterances]
    np.testing.assert_array_equal(visits, counts)


def test_all_starts_of_an_utterance_are_drawn(folder, mel):
  utterance = load(folder, mel)[0]
  batches = crops.crop_batches([utterance], SHAPE, mel, 512, 0)
  firsts = {-int(f) for f in next(batches)['first_frame']}
  last = (utterance.samples - SAMPLES) // mel.hop
  assert firsts == {f - MARGIN for f in range(last + 1)}


@pytest.mark.parametrize('keep_pcm', [True, False])
def test_a_restored_position_goes_on_with_the_very_next_batch(folder, mel, keep_pcm):
  utterances = load(folder, mel, keep_pcm=keep_pcm)
  batches = crops.crop_batches(utterances, SHAPE, mel, 4, 0)
  elements(batches, 9)  # into the second epoch
  state = json.loads(json.dumps(batches.get_state()))
  expected = elements(batches, 4)
  again = crops.crop_batches(utterances, SHAPE, mel, 4, 0)
  elements(again, 1)
  again.set_state(state)
  assert again.get_state() == state
  assert elements(again, 4) == expected
  batches.set_state(state)  # back, too
  assert elements(batches, 4) == expected


def test_workers_give_the_same_batches_and_resume_with_the_next(folder, mel):
  utterances = load(folder, mel, keep_pcm=False)
  plain = crops.crop_batches(utterances, SHAPE, mel, 4, 0)
  expected = elements(plain, 8)
  workers = crops.crop_batches(utterances, SHAPE, mel, 4, 0, workers=2)
  workers.set_state({'batches': 3})
  assert elements(workers, 3) == expected[12:24]
  state = workers.get_state()
  workers.close()
  assert state == {'batches': 6}
  plain.set_state(state)  # another number of workers
  assert elements(plain, 2) == expected[24:]


def test_shards_together_hold_the_global_batch(folder, mel):
  utterances = load(folder, mel)
  whole = crops.crop_batches(utterances, SHAPE, mel, 4, 0)
  halves = [crops.crop_batches(utterances, SHAPE, mel, 4, 0, shard=(i, 2)) for i in range(2)]
  for _ in range(5):
    parts = [elements(h, 1) for h in halves]
    assert [len(p) for p in parts] == [2, 2]
    assert sorted(parts[0] + parts[1]) == sorted(elements(whole, 1))


# Paired mels


@pytest.fixture
def paired(folder, mel):
  """`folder` with the mel of every file, shifted so that it is told from a computed one."""
  mels = {}
  for path in corpus_lib.find_audio(folder):
    pcm, _ = soundfile.read(path, dtype='int16')
    mels[path.stem] = np.maximum(audio.utterance_log_mel(pcm, mel) - 0.7, audio.mel_floor(mel))
    np.save(path.with_suffix('.npy'), mels[path.stem].T)
  return mels


def test_paired_mels_are_cropped_as_they_stand_in_the_file(folder, mel, paired):
  for utterance in load(folder, mel, mels='paired'):
    own = paired[utterance.name]
    np.testing.assert_array_equal(corpus_lib.utterance_mel(utterance, mel), own)
    for start in range(0, utterance.samples - SAMPLES + 1, mel.hop):
      crop = as_batch(crops.read_crop(utterance, start, SHAPE, mel))
      pcm, mel_BxFxM = crops.crop_inputs(crop, mel)
      np.testing.assert_array_equal(mel_BxFxM[0], expect_rows(own, start // mel.hop - MARGIN, mel))
      if start:
        np.testing.assert_array_equal(pcm[0], utterance.pcm[start - 1:start + SAMPLES])


def test_paired_mels_train_in_batches(folder, mel, paired):
  utterances = load(folder, mel, mels='paired')
  batch = next(crops.crop_batches(utterances, SHAPE, mel, 4, 0))
  assert batch['mel'].shape == (4, FRAMES, mel.bands) and 'window' not in batch


@pytest.mark.parametrize('frames', [-2, -1, 1, 2])
def test_a_paired_mel_may_be_two_frames_longer_or_shorter(folder, mel, paired, frames):
  own = paired['u0']
  longer = np.concatenate([own, own[:2] + 0.1])[:len(own) + frames]
  np.save(folder / 'u0.npy', longer.T)
  utterance = load(folder, mel, mels='paired')[0]
  kept = min(len(own), len(longer))
  np.testing.assert_array_equal(utterance.mel_FxM[:kept], own[:kept])
  assert len(utterance.mel_FxM) == len(own)
  np.testing.assert_array_equal(utterance.mel_FxM[kept:], np.float32(audio.mel_floor(mel)))


def test_a_tts_mel_may_undershoot_the_floor_but_not_by_much(folder, mel, paired):
  def undershoot(by):
    own = paired['u1'].copy()
    own[3:9] = audio.mel_floor(mel) - by
    np.save(folder / 'u1.npy', own.T)
    return own
  own = undershoot(0.9)
  np.testing.assert_array_equal(load(folder, mel, mels='paired')[1].mel_FxM, own)
  undershoot(1.2)
  with pytest.raises(InputError, match=r'u1\.npy: .*below the floor'):
    load(folder, mel, mels='paired')


def test_all_bad_paired_mels_are_listed_at_once(folder, mel, paired):
  np.save(folder / 'u0.npy', np.where(paired['u0'] == paired['u0'].max(), np.nan, paired['u0']).T)
  np.save(folder / 'u1.npy', paired['u1'][::2].T)  # of twice the hop
  np.save(folder / 'u2.npy', paired['u2'][:, :-1].T)
  with pytest.raises(InputError) as error:
    load(folder, mel, mels='paired')
  message = str(error.value)
  for part in ('3 of 3', 'u0.npy: found NaN', 'at hop 50; was it made with a hop of about 9',
               'u2.npy: found float32 of shape (19,'):
    assert part in message
  (folder / 'u0.npy').unlink()
  with pytest.raises(InputError, match=r'u0\.npy: cannot be read'):
    load(folder, mel, mels='paired')


def test_a_paired_mel_of_another_convention_is_rejected(folder, mel, paired):
  other = dataclasses.replace(mel, fmin=80.0)
  mel_files.write_mel(folder / 'u2.npy', paired['u2'], other)
  with pytest.raises(InputError, match=r'u2\.mel\.json: .*fmin \(found 80\.0, expected 40\.0\)'):
    load(folder, mel, mels='paired')
  shutil.copy(folder / 'u2.mel.json', folder / 'u0.mel.json')
  with pytest.raises(InputError, match='2 of 3'):
    load(folder, mel, mels='paired')
