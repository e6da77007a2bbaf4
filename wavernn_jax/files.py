"""Files that appear complete or not at all; which files may be read; private folders."""

import contextlib
import errno
import fcntl
import grp
import os
import pathlib
import pwd
import secrets
import stat
import tempfile
import time
import warnings

from wavernn_jax.errors import InputError

_UNFINISHED = '.wavernn-tmp'
_FULL = (errno.ENOSPC, errno.EDQUOT)
_TURN_SECONDS = 120  # how long a turn waits for another process
_POLL_SECONDS = 0.05


class DiskFull(InputError):
  """A file could not be written because no space is left: nor can any other there."""


@contextlib.contextmanager
def replacing(path):
  """Yields a binary file that takes the name `path` once it is complete.

  Raises:
    InputError: if it cannot be written, or `path` is a device, a pipe or a folder.
    DiskFull: if no space is left.
  """
  path = pathlib.Path(path)
  check_regular(path, 'a file that can be replaced, or a name that is free')
  # The random part keeps apart writers on other hosts, too.
  temporary = path.with_name(f'.{path.name}.{secrets.token_hex(4)}{_UNFINISHED}')
  try:
    with open(temporary, 'wb') as file:
      yield file
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)
  except OSError as e:
    kind = DiskFull if e.errno in _FULL else InputError
    raise kind(f'{path}: cannot be written ({e.strerror or e}); give an existing folder that '
               'you may write to, with space left.') from e
  finally:
    with contextlib.suppress(OSError):
      temporary.unlink()


def sync_folder(folder) -> None:
  """Flushes the names in a folder to disk, where its file system supports that."""
  with contextlib.suppress(OSError):
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
      os.fsync(descriptor)
    finally:
      os.close(descriptor)


def remove_unfinished(folder, *endings: str) -> None:
  """Removes what killed writers of files whose names end so left below a folder.

  No writer may be active.
  """
  for ending in endings:
    for path in pathlib.Path(folder).rglob(f'.*{ending}.*{_UNFINISHED}'):
      path.unlink(missing_ok=True)


@contextlib.contextmanager
def lock(path, problem: str):
  """Holds a lock file. The end of the process releases it, too.

  Raises:
    InputError: with `problem`, if another process holds it.
  """
  with open(path, 'w') as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as e:
      raise InputError(f'{problem}; wait for it to end, or stop it.') from e
    yield


@contextlib.contextmanager
def turn(name: str, seconds: float = _TURN_SECONDS):
  """Waits until no other process of this user holds the turn of that name.

  It goes ahead after `seconds`, and at once if this user has no private folder.
  """
  with contextlib.ExitStack() as stack:
    with contextlib.suppress(OSError):
      descriptor = os.open(private_folder() / f'{name}.lock',
                           os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
      stack.callback(os.close, descriptor)
      _lock_within(descriptor, seconds)
    yield


def _lock_within(descriptor: int, seconds: float) -> None:
  end = time.monotonic() + seconds
  while True:
    try:
      return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      if time.monotonic() > end:
        raise
      time.sleep(_POLL_SECONDS)


def private_folder() -> pathlib.Path:
  """A folder on this host that only this user may read or write.

  Raises:
    PermissionError: if somebody else has taken its name.
  """
  folder = pathlib.Path(tempfile.gettempdir()) / f'wavernn-{os.geteuid()}'
  folder.mkdir(mode=0o700, exist_ok=True)
  found = folder.lstat()
  if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
    raise PermissionError(errno.EPERM, 'is not private', str(folder))
  return folder


def others_may_write(path, trusted=()) -> bool:
  """Whether a user other than root, this one and the ids in `trusted` may replace a path.

  A group that has the name of a user counts as that user alone.
  """
  path = pathlib.Path(path).resolve()
  users = {0, os.geteuid(), *trusted}
  return (_open_to_others(path.stat(), users, sticky=False)
          or any(_open_to_others(p.stat(), users, sticky=True) for p in path.parents))


def _open_to_others(found: os.stat_result, users, sticky: bool) -> bool:
  """`sticky`: whether a folder is safe if nobody can rename what another user owns."""
  if found.st_uid not in users:
    return True
  if sticky and found.st_mode & stat.S_ISVTX:
    return False
  shared = found.st_mode & stat.S_IWGRP and not _own_group(found.st_gid, users)
  return bool(found.st_mode & stat.S_IWOTH or shared)


def _own_group(group: int, users) -> bool:
  with contextlib.suppress(KeyError):
    return any(grp.getgrgid(group).gr_name == pwd.getpwuid(user).pw_name for user in users)
  return False


def check_regular(path, expected: str) -> None:
  """Raises InputError for a folder, a device or a pipe: opening one may block for ever."""
  with contextlib.suppress(OSError):  # whoever opens it reports that
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
      raise InputError(f'{path}: found {_kind(mode)}, expected {expected}.')


def _kind(mode: int) -> str:
  kinds = ((stat.S_ISDIR, 'a folder'), (stat.S_ISFIFO, 'a named pipe'),
           (stat.S_ISSOCK, 'a socket'))
  return next((name for is_kind, name in kinds if is_kind(mode)), 'a device')


def walk(folder) -> list[pathlib.Path]:
  """All files below a folder, sorted. Follows links to folders, but visits each folder once.

  A file that can be reached without a link is listed under that path. A folder
  that cannot be read is left out with a UserWarning.
  """
  found, visited, links = [], set(), [pathlib.Path(folder)]
  while links:
    waiting, links = links, []
    for start in waiting:
      for path in _walk_unlinked(start, visited):
        (links if path.is_symlink() and path.is_dir() else found).append(path)
  return sorted(found)


def _walk_unlinked(start: pathlib.Path, visited: set):
  """The files, and the links to folders, below a folder, unless it was already visited."""
  def tell(error):
    warnings.warn(f'{error.filename}: cannot be read ({error.strerror}) and is left out.',
                  stacklevel=3)

  for parent, folders, names in os.walk(start, onerror=tell):
    status = os.stat(parent)
    if (status.st_dev, status.st_ino) in visited:
      folders.clear()
      continue
    visited.add((status.st_dev, status.st_ino))
    parent = pathlib.Path(parent)
    folders.sort()
    yield from (parent / name for name in names)
    yield from (parent / name for name in folders if (parent / name).is_symlink())


def write_text(path, text: str) -> None:
  """Writes a text file that appears complete or not at all."""
  with replacing(path) as file:
    file.write(text.encode())
