"""The one exception that says: the input is wrong, and here is what to do."""


class InputError(ValueError):
  """Bad input from the user: names the file or flag, what was found and expected.

  `launch.py` prints it as one message without a traceback and exits with 2.
  """
