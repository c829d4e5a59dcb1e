"""Prompt templates, and parsing of think/answer responses.

Everything here takes linear time in the length of the text and no regular expression backtracks: responses come from a
model that is rewarded for any input that breaks the parser.
"""

import dataclasses
import re

THINK, THINK_END, ANSWER, ANSWER_END = TAGS = ('<think>', '</think>', '<answer>', '</answer>')

# The form of control tokens in most tokenizers: `<|im_start|>`, `<｜User｜>`.
_CONTROL = re.compile(r'<[|｜][^\s<>|｜]{1,64}[|｜]>')

# Words that announce a second look; they are counted in metrics, not rewarded. The Chinese ones mean "wait", "wait a
# moment", "check", "check the calculation" and "think again".
REFLECTION_WORDS = (
  'wait',
  'hold on',
  'on second thought',
  'recheck',
  're-check',
  'reevaluate',
  're-evaluate',
  'reexamine',
  're-examine',
  'rethink',
  'reconsider',
  *(f'{who} {act}' for who in ('let me', 'let us', "let's") for act in ('check', 'verify')),
  'double-check',
  'double check',
  'try again',
  '等等',
  '等一下',
  '检查',
  '验算',
  '再想',
  *(f'重新{act}' for act in '检查 计算 算 考虑 审视 思考 想 验证 验算 核对 推导 分析 看 来 审题'.split()),
)
# Contexts in which they mean something else: others who check, waiting for a bus or 10 minutes, being allowed to try
# again, inspectors, and 等等 as "and so on".
_OTHERS = [f'{who} {how}'.strip() for who in ('he', 'she', 'they') for how in ('', *'will must can should to'.split())]
_WORDS_BEFORE = (
  "to will must can may should would could cannot not can't they he she we you i people the a long average who that "
  'his her their its my our your'
).split()
_WORDS_AFTER = 'for until till on in at outside there here time times list'.split()
_NUMBERS = r'\d\d?\d?\d? an several another two three four five six seven eight nine ten fifteen twenty thirty'.split()
_SPAN = rf'(?:{"|".join(_NUMBERS)}|a few)(?: more)? (?:second|minute|hour|day|week|month|year)'
_not_after = lambda words: ''.join(rf'(?<!\b{word} @)' for word in words)
# Word -> what must hold before its end, where @ is the word itself, and what must hold after it.
_FALSE_FRIENDS = {
  'wait': (_not_after(_WORDS_BEFORE), rf'(?!(?: |-)(?:{"|".join(_WORDS_AFTER)})(?![a-z]))(?! {_SPAN})'),
  'try again': (_not_after(word for word in _WORDS_BEFORE if word != 'to'), ''),
  'hold on': (_not_after(_WORDS_BEFORE), '(?! to(?![a-z]))'),
  **{f'double{join}check': (_not_after(_OTHERS), '') for join in ' -'},
  '等等': ('(?:(?<![\u4e00-\u9fff0-9、…）)》」”]@)|(?<=[对哦嗯啊呃但]@))', '(?![的之号])'),
  '等一下': ('(?<![请稍]@)', ''),
  '检查': ('(?<![被的员]@)', '(?![员站出])'),
}

# The wording of Table 1 of the DeepSeek-R1 report.
_R1_ZERO = (
  'A conversation between User and Assistant. The user asks a question, and the Assistant solves it. '
  'The assistant first thinks about the reasoning process in the mind and then provides the user with the answer. '
  'The reasoning process and answer are enclosed within <think> </think> and <answer> </answer> tags, respectively, '
  'i.e., <think> reasoning process here </think> <answer> answer here </answer>. User: {problem}. Assistant:'
)


# TinyZero's, for base models.
_COUNTDOWN = (
  'A conversation between User and Assistant. The user asks a question, and the Assistant solves it. The assistant '
  'first thinks about the reasoning process in the mind and then provides the user with the answer.\n'
  'User: {problem} Show your work in <think> </think> tags. And return the final answer in <answer> </answer> tags, '
  'for example <answer> (1 + 2) / 3 </answer>.\n'
  'Assistant: Let me solve this step by step.\n<think>'
)


@dataclasses.dataclass(frozen=True)
class Template:
  """A prompt for one problem; `text` contains the placeholder `{problem}` once.

  With `chat` the text is a user turn, which the model's chat template then wraps.
  """

  text: str
  chat: bool = False

  def format(self, problem):
    """Returns the prompt for a problem, a dict with 'problem'; braces and tags in the problem stay as they are.

    If the problem ends in `<think>` and nothing but white space follows it in the template, a full stop is added after
    it, as a tag in a problem must not open the thinking. (A chat template continues after the problem.)
    """
    is_last = not self.chat and not self.text.rpartition('{problem}')[2].strip()
    text = guard_trailing_think(problem['problem']) if is_last else problem['problem']
    return self.text.replace('{problem}', text)


TEMPLATES = {
  'r1_zero': Template(_R1_ZERO),
  'r1_zero_open': Template(_R1_ZERO + ' ' + THINK),
  'plain': Template('{problem}\n'),
  # SimpleRL-Zoo's prompt for small base models.
  'step_by_step': Template("Question:\n{problem}\nAnswer:\nLet's think step by step.\n"),
  'countdown': Template(_COUNTDOWN),
  'chat': Template('{problem}', chat=True),
  # The recommended prompt of DeepSeek-R1 and Qwen2.5-Math.
  'chat_boxed': Template(
    '{problem}\nPlease reason step by step, and put your final answer within \\boxed{}.', chat=True
  ),
  # verl's for GSM8K.
  'chat_gsm8k': Template('{problem} Let\'s think step by step and output the final answer after "####".', chat=True),
  'chat_boxed_zh': Template('{problem}\n请逐步推理，并把最终答案放在 \\boxed{} 中。', chat=True),
}


def template_of(problem, default: Template) -> Template:
  """Returns the Template that the problem's field 'template' names (a key of TEMPLATES), or `default`."""
  name = problem.get('template')
  return TEMPLATES.get(name, default) if isinstance(name, str) else default


@dataclasses.dataclass(frozen=True)
class Parsed:
  """Result of `parse`; a part that is missing is None."""

  thinking: str | None
  answer: str | None
  well_formed: bool


def opens_thinking(prompt, tag=THINK):
  """Whether the prompt ends in `tag` and any white space; DeepSeek-R1's prompt ends in `<think>\\n`."""
  return prompt.rstrip().endswith(tag)


def guard_trailing_think(text):
  """Adds a full stop to a text that ends in `<think>`, so that it does not open the thinking."""
  return text + '.' if opens_thinking(text) else text


def completed(prompt, response, tag=THINK):
  """Returns the response as a text to parse: with `tag` in front if the prompt ends in it."""
  return tag + response if opens_thinking(prompt, tag) else response


def parse(text):
  """Splits a response into thinking and answer.

  A well-formed response is exactly one `<think>..</think>`, then exactly one `<answer>..</answer>`, with nothing but
  white space before, between and after them. Empty parts are well formed: other rewards judge the content. In a
  response that is not well formed, `answer` is the text from the last `<answer>` before the last `</answer>` to that
  tag, and `thinking` the text from the first `<think>` to the next `</think>` or the end.

  Args:
    text: the response, as `completed` returns it.

  Returns:
    Parsed.
  """
  return Parsed(_thinking(text), _answer(text), _well_formed(text))


def _thinking(text):
  start = text.find(THINK)
  if start < 0:
    return None
  start += len(THINK)
  end = text.find(THINK_END, start)
  return text[start:end] if end >= 0 else text[start:]


def summary_start(text):
  """Returns the position after the last `</think>`, or 0 if there is no think tag.

  Returns None if the thinking is not closed: there is a `<think>` after the last `</think>`. All rewards that read the
  answer or summary of a response use this rule.
  """
  end = text.rfind(THINK_END)
  start = end + len(THINK_END) if end >= 0 else 0
  return None if text.find(THINK, start) >= 0 else start


def summary(text):
  """Returns the text after the thinking, see `summary_start`; None if the thinking is not closed."""
  start = summary_start(text)
  return None if start is None else text[start:]


def answer_span(text):
  """Returns (start, end) of the text between the last `</answer>` and the nearest `<answer>` before it, or None."""
  end = text.rfind(ANSWER_END)
  start = text.rfind(ANSWER, 0, end) if end >= 0 else -1
  return (start + len(ANSWER), end) if start >= 0 else None


def _answer(text):
  span = answer_span(text)
  return text[span[0] : span[1]] if span else None


def _well_formed(text):
  return all(r1_zero_conditions(text).values())


def r1_zero_conditions(text):
  """Returns {condition of R1-Zero's format: whether it is met}; `Parsed.well_formed` is true if all are met."""
  once = {f'{tag} once': text.count(tag) == 1 for tag in TAGS}
  think, think_end, answer, answer_end = positions = [text.find(tag) for tag in TAGS]
  order = all(once.values()) and positions == sorted(positions)
  outside = text[:think], text[think_end + len(THINK_END) : answer], text[answer_end + len(ANSWER_END) :]
  return once | {'in order': order, 'nothing outside': order and not any(part.strip() for part in outside)}


def r1_conditions(text):
  """Like `r1_zero_conditions` for R1's format: one `<think>..</think>`, then a summary that is not empty."""
  once = {f'{tag} once': text.count(tag) == 1 for tag in (THINK, THINK_END)}
  order = all(once.values()) and text.find(THINK) < text.find(THINK_END)
  return once | {
    'in order': order,
    'nothing before': order and not text[: text.find(THINK)].strip(),
    'a summary': order and bool(text[text.find(THINK_END) + len(THINK_END) :].strip()),
  }


def special_conditions(text, token):
  """Like `r1_zero_conditions` for R1's cold-start format: `token`, reasoning, `token`, a summary that is not empty."""
  twice = text.count(token) == 2
  return {
    'token twice': twice,
    'nothing before': twice and not text[: text.find(token)].strip(),
    'a summary': twice and bool(text[text.rfind(token) + len(token) :].strip()),
  }


def control_tokens(text):
  """Returns the set of substrings that have the form of control tokens."""
  return set(_CONTROL.findall(text))


def _reflection_pattern():
  # Longest first, so that a word inside a longer one is not counted twice. English words must be whole words; Chinese
  # has no spaces between words. There is no quantifier, so nothing can backtrack. What must hold before a word is
  # looked at behind it, as only alternatives that begin with a letter let `re` skip to where one of them may begin.
  words = []
  for word in sorted(REFLECTION_WORDS, key=len, reverse=True):
    before, after = _FALSE_FRIENDS.get(word, ('', ''))
    if word.isascii():
      before, after = '(?<![a-z]@)' + before, '(?![a-z])' + after
    words.append(re.escape(word) + before.replace('@', re.escape(word)) + after)
  return '|'.join(words)


REFLECTION = _reflection_pattern()  # for text in lowercase
_REFLECTION = re.compile(REFLECTION)


def find_reflections(text):
  """The characters at which the reflections of `reflections` begin: a list of int."""
  lower = text.lower()
  if len(lower) != len(text):  # rare letters become two
    lower = ''.join(c.lower() if len(c.lower()) == 1 else c for c in text)
  return [match.start() for match in _REFLECTION.finditer(lower)]


def reflections(text):
  """Counts the REFLECTION_WORDS of a text that are used in that sense, ignoring case, without overlaps."""
  return len(_REFLECTION.findall(text.lower()))
