"""The report of the paper's systems: runs -> table, CSV, pictures, a page to listen to.

RUNS/report holds systems.md and systems.csv, pictures, audio/SYSTEM of held-out sentences,
and report.html (experiments/listening). What failed, or may not stand in one table, is named
there and leaves a gap.
"""

import csv
import dataclasses
import io
import json
import pathlib
import shutil
import warnings

from experiments.listening import document, folders, page, ratings as ratings_lib, tables
from experiments.sweeps import cells as cells_lib, paper, study
from wavernn_jax import commands, config as config_lib, executors, files
from wavernn_jax.data import corpus
from wavernn_jax.errors import InputError
from wavernn_jax.evaluation import pictures

_SENTENCES = 6
_NOTES = (
    'NLL in nats per 16-bit sample on whole held-out utterances of {corpus}, {rate:,} Hz, in the '
    'mel convention {mel}; a gain of g adds up to ln g. Intervals are 95%: of a system and over '
    'utterances by a bootstrap, paired where it is a difference; over seeds a t interval. N: '
    'products one after the other in a step / samples of a step. Speed: one utterance at a time.')


def run(size: str, data_dir: str, workdir, executor: str = 'process') -> dict:
  """Makes or goes on with the runs of a size, writes their report, returns what it printed.

  Raises:
    InputError: after the report is written, if runs failed.
  """
  if not data_dir:
    raise InputError('--data_dir is not set; give a folder of recordings.')
  workdir, variant = pathlib.Path(workdir), paper.STUDY.variant(size)
  command = (f'python -m experiments.report --run={size} '
             f'--data_dir={pathlib.Path(data_dir).resolve().name}')
  failed = ''
  try:
    study.run(paper.STUDY, variant, workdir / 'results', workdir, data_dir,
              executors.create(executor), command)
  except InputError as error:
    failed = str(error)
  result = write(variant, data_dir, workdir, failed)
  print(json.dumps(result), flush=True)
  if failed:
    raise InputError(failed)
  return result


@dataclasses.dataclass(frozen=True)
class Found:
  """What a report is made of: comparable cells, and a message for everything left out."""

  cells: dict
  problems: list[str]


def find(variant: study.Variant, workdir: pathlib.Path, failed: str = '') -> Found:
  """The runs of a variant that may stand in one table.

  Raises:
    InputError: if there is none.
  """
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always')
    cells = cells_lib.read_cells(workdir / 'results' / 'runs.csv', paper.STUDY.key)
  cells, problems = paper.comparable(cells)
  problems = [str(w.message) for w in caught] + problems + failed.splitlines()
  wanted = {s.fields['title']: s for s in variant.systems}
  cells = {name: cell for name, cell in cells.items() if name[2] in wanted
           and (name[0], name[1]) == (wanted[name[2]].fields['size'], wanted[name[2]].lengths[0])}
  missing = [title for title in wanted if title not in {name[2] for name in cells}]
  problems += [f'{title}: no finished run that compares; its row is left out.'
               for title in missing]
  if not cells:
    raise InputError(f'{workdir}/results: holds no finished run.\n' + '\n'.join(problems))
  return Found(cells, problems)


def write(variant: study.Variant, data_dir: str, workdir: pathlib.Path, failed: str = '') -> dict:
  """Writes RUNS/report from finished runs."""
  found, folder = find(variant, workdir, failed), workdir / 'report'
  folder.mkdir(parents=True, exist_ok=True)
  made, plots = _tables(found, data_dir), []
  files.write_text(folder / 'systems.md', '\n'.join(map(tables.markdown, made)))
  files.write_text(folder / 'systems.csv', _csv(made[0]))
  for name, figure in paper.figures(found.cells).items():
    pictures.save(figure, folder / name)
    plots.append(document.Plot('Likelihood, size and speed', (folder / name).read_bytes()))
  report = _listening(found, variant, data_dir, workdir)
  page.write(dataclasses.replace(report, tables=made, plots=plots), folder / 'report.html')
  return {'report': str(folder / 'report.html'), 'systems': len(found.cells),
          'sentences': len(report.sentences), 'left_out': found.problems}


def _tables(found: Found, data_dir: str) -> list[document.Table]:
  header, rows = paper.system_rows(found.cells)
  row = next(iter(found.cells.values())).row
  note = _NOTES.format(corpus=pathlib.Path(data_dir).resolve().name, mel=row['mel'],
                       rate=_rate(row))
  note += ''.join(f' {text}' for text in paper.gaps(found.cells))
  note += ''.join(f' Left out: {problem}' for problem in found.problems)
  return [document.Table('Systems', header, rows, note),
          document.Table('Sources', paper.SOURCE_HEADER, paper.source_rows(found.cells))]


def _rate(row: dict) -> int:
  return round(float(row['scan_samples_per_second']) / float(row['scan_realtime_factor']))


def _csv(table: document.Table) -> str:
  text = io.StringIO()
  csv.writer(text, lineterminator='\n').writerows([table.columns, *table.rows])
  return text.getvalue()


# Audio


def _listening(found: Found, variant: study.Variant, data_dir: str, workdir) -> document.Report:
  """Sentences of the first seed of every system beside the recordings."""
  folder = workdir / 'report' / 'audio'
  originals = _recordings(data_dir, folder / document.RECORDING)
  names = {s.fields['title']: f'{s.name}_u{s.lengths[0]}_s' for s in variant.systems}
  speaking = []
  for name, cell in found.cells.items():
    title, spoken = name[2], folder / name[2].replace(' ', '_')
    run_folder = workdir / 'runs' / f'{names[title]}{cell.row["seed"]}'
    try:
      commands.synthesize(str(run_folder), str(originals), str(spoken))
      speaking.append(f'{title}={spoken}')
    except InputError as error:
      found.problems.append(f'{title}: not to be heard: {error}')
  if not speaking:
    raise InputError('\n'.join(found.problems))
  texts = pathlib.Path(data_dir) / 'metadata.tsv'
  return folders.read(originals, speaking, f'Systems on {pathlib.Path(data_dir).resolve().name}',
                      str(texts) if texts.exists() else '')


def _recordings(data_dir: str, folder: pathlib.Path) -> pathlib.Path:
  """A folder of copies of the first held-out recordings."""
  config = config_lib.DataConfig(dir=data_dir)
  folder.mkdir(parents=True, exist_ok=True)
  for path in corpus.split_files(config)['test'][:_SENTENCES]:
    if not (folder / path.name).exists():
      shutil.copyfile(path, folder / path.name)
  return folder


# Ratings


def rate(paths: list[str], workdir) -> dict:
  """Means of ratings of RUNS/report/report.html: ratings.md beside it, printed and returned."""
  folder = pathlib.Path(workdir) / 'report'
  summary = ratings_lib.summarise(paths, document.read_manifest(folder / 'report.html'))
  text = '\n'.join(map(tables.markdown, summary.tables()))
  text += ''.join(f'\nLeft out: {problem}\n' for problem in summary.problems)
  files.write_text(folder / 'ratings.md', text)
  print(text)
  result = ratings_lib.as_json(summary)
  print(json.dumps(result), flush=True)
  return result

