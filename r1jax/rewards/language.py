"""Language consistency of a text."""
import re

from r1jax import templates

_CHINESE = '\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0002a6df'
_WORD = re.compile(rf'[{_CHINESE}]|[^\W\d_{_CHINESE}]{{2,}}')
_COMMAND = re.compile(r'\\[A-Za-z]+')


def language_consistency(text, target):
  """Share of the words of `text` that are in the target language (DeepSeek-R1, the reward of stage 2).

  A word is a run of two or more letters, or one Chinese character. Numbers, single letters, LaTeX
  commands and think/answer tags are no words; words of a third script belong to neither language.

  Args:
    text: usually the thinking.
    target: 'en' or 'zh'.

  Returns:
    A float in [0, 1]; 1.0 where there is nothing to count, so an empty chain counts as consistent.
  """
  if target not in ('en', 'zh'):
    raise ValueError(f"language {target!r} is not known; use 'en' or 'zh'.")
  for tag in templates.TAGS:
    text = text.replace(tag, ' ')
  words = [w for w in _WORD.findall(_COMMAND.sub(' ', text)) if w.isalpha()]
  if not words:
    return 1.0
  english = sum(w.isascii() for w in words)
  chinese = sum(re.match(f'[{_CHINESE}]', w) is not None for w in words)
  return (english if target == 'en' else chinese) / len(words)
