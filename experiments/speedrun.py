"""From a corpus to a trained, evaluated, exported and speaking voice, in one command.

    python -m experiments.speedrun --data_dir=DIR --workdir=RUN [--variant=small|tiny]

Variants: `small`, experiments/configs/dense.py:small, under an hour on two cores, and `tiny`,
seconds, on any corpus (the bundled one is wavernn_jax/demo_speech). RUN holds the run, the
export, the audio of held-out sentences and scores.json. A command that was stopped goes on
where it was.

The scores to expect stand beside those obtained. They are those of a recorded run of the
same variant on the same recordings, experiments/results/speedrun/VARIANT.json; where there is
none, there is nothing to expect yet, and `--record` makes this run the recorded one. The last
line is one JSON object; its `realtime_factor` is this machine's.
"""

import json
import pathlib

from absl import flags

from experiments import cli
from experiments.benchmarks import measure
from experiments.configs import dense
from experiments.sweeps import cells as cells_lib
from wavernn_jax import commands, config as config_lib, files
from wavernn_jax.config import Config
from wavernn_jax.data import corpus
from wavernn_jax.errors import InputError

VARIANTS = 'small', 'tiny'
RECORDED = pathlib.Path(__file__).parent / 'results' / 'speedrun'
_SENTENCES = 6  # of the test split that are spoken
_SCORES = (  # stage, path within its result
    ('evaluate', 'nll'), ('evaluate', 'nll_coarse'), ('evaluate', 'nll_fine'),
    ('evaluate', 'free_running.voicing_f1'), ('evaluate', 'free_running.periodicity'),
    ('evaluate', 'free_running.log_mel_l1'), ('evaluate_export', 'nll'))


class Speedrun:
  """The stages of one folder; what a finished stage gave is kept in stages/NAME.json."""

  def __init__(self, config: Config, workdir):
    """Raises InputError if the folder is of another speedrun."""
    self.config, self.folder = config, pathlib.Path(workdir)
    self.run, self.model = self.folder / 'run', self.folder / 'voice.safetensors'
    self._stages = self.folder / 'stages'
    self._stages.mkdir(parents=True, exist_ok=True)
    self._claim()

  def _claim(self) -> None:
    path, config = self.folder / 'speedrun.json', config_lib.to_dict(self.config)
    if not path.exists():
      files.write_text(path, json.dumps(config, indent=1))
    changed = config_lib.differences(json.loads(path.read_text()), config)
    if changed:
      raise InputError(f'--workdir={self.folder}: holds a speedrun with other '
                       f'{", ".join(changed)}; give the same flags to go on, or a new folder.')

  def results(self) -> dict[str, dict]:
    """What each stage gave; those that are not finished yet are worked off first."""
    return {name: self._stage(name, stage) for name, stage in (
        ('check', self._check), ('train', self._train), ('evaluate', self._evaluate),
        ('export', self._export), ('evaluate_export', self._evaluate_export),
        ('synthesize', self._synthesize))}

  def _stage(self, name: str, stage) -> dict:
    path = self._stages / f'{name}.json'
    if not path.exists():
      print(f'speedrun: {name}', flush=True)
      files.write_text(path, json.dumps(stage(), default=float))
    return json.loads(path.read_text())

  def _check(self) -> dict:
    return commands.check(self.config, str(self.folder / 'check'))

  def _train(self) -> dict:
    result = commands.train(self.config, str(self.run))
    if result['step'] < self.config.train.steps:
      raise InputError(f'stopped at step {result["step"]}; the same command goes on from there.')
    return result

  def _evaluate(self) -> dict:
    return commands.evaluate(str(self.run), 'test')

  def _export(self) -> dict:
    return commands.export(str(self.run), str(self.model))

  def _evaluate_export(self) -> dict:
    return commands.evaluate('', 'test', self.config.data.dir, str(self.model))

  def _synthesize(self) -> dict:
    """Anew, also where an earlier attempt has left wavs: its speed is a score."""
    sentences = corpus.split_files(self.config.data)['test'][:_SENTENCES]
    listed = self.folder / 'sentences.txt'
    files.write_text(listed, ''.join(f'{pathlib.Path(p).resolve()}\n' for p in sentences))
    return commands.synthesize('', str(listed), str(self.folder / 'audio'),
                               model=str(self.model), overwrite=True)


def scores(results: dict[str, dict]) -> dict[str, float | None]:
  """The figures by which a voice is judged; None where it has none, as F0 of a whisper."""
  found = {}
  for stage, path in _SCORES:
    value = results[stage]
    for key in path.split('.'):
      value = value.get(key) if value else None
    found[f'{stage}.{path}'] = value
  return found


def recorded(path: pathlib.Path, digest: str) -> tuple[dict, str]:
  """Scores to expect, and whence, or why there are none.

  Args:
    path: of the recorded run.
    digest: of the training recordings; other recordings have other scores.
  """
  if not path.exists():
    return {}, 'no run of this variant is recorded yet, so there is nothing to expect'
  found = json.loads(path.read_text())
  if found['corpus'] != digest:
    return {}, f'the recorded run was of other recordings ({found["data"]})'
  return found['scores'], f'commit {found["commit"]}, {found["hardware"]}, {found["date"]}'


def table(obtained: dict, expected: dict) -> str:
  """Markdown: the scores expected beside those obtained."""
  def text(value) -> str:
    return '–' if value is None else f'{value:.3f}'
  return cells_lib.markdown(
      ['score', 'expected', 'obtained'],
      [[name, text(expected.get(name)), text(value)] for name, value in obtained.items()])


def configuration(variant: str, data_dir: str) -> Config:
  """The config of a variant."""
  config = dense.get_config(variant)
  config.data.dir = str(pathlib.Path(data_dir).resolve())
  return config


def speedrun(variant: str, data_dir: str, workdir, record: bool = False) -> dict:
  """Works off what is missing of a speedrun, prints and returns its scores.

  Args:
    variant: of VARIANTS.
    data_dir: corpus.
    workdir: folder of the speedrun.
    record: make the scores those to expect from now on.
  """
  found = Speedrun(configuration(variant, data_dir), workdir)
  results = found.results()
  obtained = scores(results)
  digest = json.loads((found.run / 'run.json').read_text())['corpus']
  data = pathlib.Path(data_dir).resolve().name
  result = {'variant': variant, 'data': data, 'corpus': digest, 'scores': obtained,
            'command': f'python -m experiments.speedrun --data_dir={data} --variant={variant}',
            **measure.source()}
  path = RECORDED / f'{variant}.json'
  expected, source = recorded(path, digest)
  print(f'\n{table(obtained, expected)}\nexpected: {source}')
  if record:
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, json.dumps(result, indent=1) + '\n')
  result |= {'realtime_factor': results['synthesize']['realtime_factor'],
             'expected': expected, 'expected_from': source,
             'model': str(found.model), 'audio': str(found.folder / 'audio')}
  files.write_text(found.folder / 'scores.json', json.dumps(result, indent=1))
  print(json.dumps(result), flush=True)
  return result


def main() -> None:
  given = flags.FLAGS
  if not given.data_dir:
    raise InputError('--data_dir is not set; give a folder of recordings.')
  speedrun(given.variant, given.data_dir, given.workdir, given.record)


if __name__ == '__main__':
  flags.DEFINE_string('data_dir', '', 'Folder of recordings.')
  flags.DEFINE_string('workdir', 'runs/speedrun', 'Folder of the speedrun.')
  flags.DEFINE_enum('variant', 'small', VARIANTS, 'Size of the speedrun.')
  flags.DEFINE_bool('record', False, 'Record the scores of this run as those to expect.')
  cli.run(main)
