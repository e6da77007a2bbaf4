"""--mode=check: what it measures, which convention it finds, what it calls a problem."""

import json
import math
import subprocess
import sys

import numpy as np
import processes
import pytest
import soundfile

from wavernn_jax import audio, check, commands, config as config_lib, conventions, survey
from wavernn_jax.errors import InputError
from wavernn_jax.training import loop

RATE = 24_000
TEST = sorted((commands.DEMO_SPEECH / 'test').glob('*.flac'))


def sine(seconds=1.0, amplitude=0.5, rate=RATE):
  t = np.arange(round(seconds * rate)) / rate
  return np.rint(32_768 * amplitude * np.sin(2 * np.pi * 200 * t)).astype(np.int16)


# Measures


def test_levels_and_silence_are_those_of_a_known_signal():
  loud, noise = sine(), np.rint(10 * np.random.default_rng(0).standard_normal(RATE // 2))
  found = survey.measure('a', np.r_[loud, noise.astype(np.int16)], RATE)
  assert found.seconds == 1.5
  assert found.peak_db == pytest.approx(20 * math.log10(0.5), abs=0.01)
  assert found.speech_db == pytest.approx(20 * math.log10(0.5 / math.sqrt(2)), abs=0.1)
  assert found.noise_db == pytest.approx(20 * math.log10(10 / 32_768), abs=0.5)
  assert found.silence == pytest.approx(1 / 3, abs=0.01)
  assert found.clipped == 0 and found.coarse.sum() == 1.5 * RATE


@pytest.mark.parametrize('step, bits', [(1, 16), (2, 15), (256, 8), (3, 16 - math.log2(3))])
def test_bits_are_those_that_carry_something(step, bits):
  pcm = (np.random.default_rng(0).integers(-100, 100, 5_000) * step).astype(np.int16)
  assert survey.measure('a', pcm, RATE).bits == pytest.approx(bits)


def test_clipping_is_runs_at_the_peak_of_any_level():
  pcm = np.clip(sine(amplitude=0.6).astype(int), -15_000, 15_000).astype(np.int16)
  assert survey.measure('a', pcm, RATE).clipped == (np.abs(pcm.astype(int)) == 15_000).sum() > 9_000
  assert survey.measure('a', sine(amplitude=0.6), RATE).clipped == 0


def test_the_suggested_gain_leaves_a_decibel():
  found = survey.summary([survey.measure('a', sine(amplitude=a), RATE) for a in (0.1, 0.2)])
  assert 0.2 * found['suggested_gain'] == pytest.approx(10**(-1 / 20), rel=0.01)
  assert any('room for a gain of 4.4' in text for text in survey.advice(found))


# Conventions


PRESETS = config_lib.mel_presets()


def mels_of(name, gain=1.0):
  mel = PRESETS[name]
  pcms = {p: audio.read_audio(p, mel.sample_rate) for p in TEST}
  return {p: audio.utterance_log_mel(np.rint(pcm * gain).astype(np.int16), mel).T
          for p, pcm in pcms.items()}


@pytest.mark.parametrize('name', PRESETS)
def test_a_convention_is_told_from_the_audio_beside_the_mels(name):
  found = conventions.identify(mels_of(name), config_lib.MelConfig(), {p: p for p in TEST})
  assert found.fits == (['hifigan', 'matcha'] if name in ('hifigan', 'matcha') else [name])
  assert 'by the audio beside them' in found.sentence()


@pytest.mark.parametrize('name', PRESETS)
def test_a_convention_is_among_those_that_the_values_fit(name):
  found = conventions.identify(mels_of(name, 0.4), config_lib.MelConfig())
  alike = {'tacotron2', 'hifigan', 'matcha'}
  assert set(found.fits) == (alike if name in alike else {name})
  assert ('to tell these apart' in found.sentence()) == (name in alike)


@pytest.mark.parametrize('change, reason', [
    (lambda m: (m + 5) / 2, 'by their values'), (lambda m: np.exp(m), 'by their values'),
    (lambda m: m[:64], 'another number of bands')])
def test_mels_of_no_known_convention_are_said_to_be(change, reason):
  arrays = {path: change(m) for path, m in mels_of('hifigan').items()}
  found = conventions.identify(arrays, config_lib.MelConfig())
  assert found.fits == [] and reason in found.sentence()
  assert set(found.ruled_out) == set(PRESETS)


def test_a_convention_of_the_config_is_a_candidate(mel):
  arrays = {p: audio.utterance_log_mel(audio.read_audio(p, mel.sample_rate), mel) for p in TEST}
  found = conventions.identify(arrays, mel)
  assert found.fits == ['config.mel (small)']


# The report


def test_the_report_of_a_good_corpus(tiny_config, tmp_path):
  found = check.report(tiny_config, tmp_path)
  assert found['problems'] == [] and found['files'] == 7
  assert found['hours'] == pytest.approx(
      (0.5 + 0.9 + 0.31 + 0.7 + 0.4 + 0.63 + 0.45) / 3600, abs=1e-4)
  assert found['sample_rates'] == {'8000': 7}
  picture = (tmp_path / 'corpus.png').read_bytes()
  assert picture.startswith(b'\x89PNG') and found['picture'] == str(tmp_path / 'corpus.png')


def test_what_keeps_a_training_from_starting_is_a_problem_in_the_same_words(
    tiny_config, tmp_path, corpus):
  for split in ('train', 'valid', 'test'):
    (tmp_path / split).mkdir()
    for path in (corpus / split).iterdir():
      (tmp_path / split / path.name).symlink_to(path)
  (tmp_path / 'train' / 'text.wav').write_text('no audio')
  tiny_config.data.dir = str(tmp_path)
  with pytest.raises(InputError) as training:
    loop.train(tiny_config, tmp_path / 'run')
  found = check.report(tiny_config, tmp_path / 'out')
  assert found['problems'] == [str(training.value)]
  assert 'train/text.wav' in found['problems'][0]
  assert '--config.data.skip_bad=true' in found['options']
  assert found['unsuited'] == {'cpu': [
      '--engine=cpu: found model.units = 16, expected a multiple of 32; use --engine=scan.']}
  tiny_config.train.crop = 0
  problem, = check.report(tiny_config, tmp_path / 'out')['problems']
  assert '--config.train.crop: found 0' in problem


def test_a_lower_rate_than_the_convention_suggests_a_preset(tmp_path):
  for name in 'abc':
    soundfile.write(tmp_path / f'{name}.wav', sine(2, 0.1 * (1 + ord(name) % 3), 22_050), 22_050)
  config = config_lib.Config()
  config.data.dir = str(tmp_path)
  options = check.report(config, tmp_path / 'out')['options']
  assert len(options) == 1 and PRESETS[options[0].removeprefix('--mel=')].sample_rate == 22_050


def run(*flags):
  return subprocess.run([sys.executable, 'launch.py', '--mode=check', *flags], text=True,
                        capture_output=True, cwd=processes.ROOT)


def test_the_command_prints_json_last_and_fails_on_problems(tmp_path):
  mel = PRESETS['vocos24k']
  for path in TEST:
    pcm = audio.read_audio(path, RATE)
    audio.write_wav(tmp_path / f'{path.stem}.wav', pcm, RATE)
    np.save(tmp_path / f'{path.stem}.npy', audio.utterance_log_mel(pcm, mel).T)
  good = run(f'--config.data.dir={tmp_path}', f'--output={tmp_path}/out')
  assert good.returncode == 0, good.stderr
  found = json.loads(good.stdout.splitlines()[-1])
  assert found['mels']['fits'] == ['vocos24k'] and found['files'] == 3
  assert found['options'] == ['--mel=vocos24k', '--config.data.mels=paired']
  assert f'picture: {tmp_path}/out/corpus.png' in good.stdout
  bad = run(f'--config.data.dir={tmp_path}', f'--output={tmp_path}/out',
            '--config.data.mels=paired')
  assert bad.returncode == 2 and 'Traceback' not in bad.stderr
  assert json.loads(bad.stdout.splitlines()[-1])['problems'][0] in bad.stderr
  assert 'expected floats of shape [80 bands, frames]' in bad.stderr


def test_a_folder_of_mels_alone_is_told_its_convention(tmp_path):
  for path, m in mels_of('parallel_wavegan24k').items():
    np.save(tmp_path / f'{path.stem}.npy', m)
  config = config_lib.Config()
  config.data.dir = str(tmp_path)
  found = check.report(config, tmp_path / 'out')
  assert found['mels']['fits'] == ['parallel_wavegan24k'] and found['problems'] == []
  assert found['options'] == ['--mel=parallel_wavegan24k']
  np.save(tmp_path / 'z.npy', np.zeros((80, 9), np.float32))
  assert 'fit no known convention' in check.report(config, tmp_path / 'out')['problems'][0]
  (tmp_path / 'a.npy').write_bytes(b'\x93NUMPY\x01\x00')
  with pytest.raises(InputError, match='a.npy: cannot be read as a mel'):
    check.report(config, tmp_path / 'out')


@pytest.mark.parametrize('name', ['', 'nowhere', 'empty'])
def test_a_folder_without_anything_is_named(tmp_path, name):
  (tmp_path / 'empty').mkdir()
  config = config_lib.Config()
  config.data.dir = str(tmp_path / name) if name else ''
  with pytest.raises(InputError, match='no such folder|no audio found'):
    check.report(config, tmp_path / 'out')
