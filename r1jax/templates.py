"""Prompt templates, and the reading of think/answer responses.

Everything here is linear in the length of the text and uses no backtracking: responses come from a
model that is rewarded for whatever slips through.
"""

import dataclasses
import re

THINK, THINK_END, ANSWER, ANSWER_END = TAGS = ('<think>', '</think>', '<answer>', '</answer>')

# How tokenizers write the tokens that steer a conversation: `<|im_start|>`, `<｜User｜>`.
_CONTROL = re.compile(r'<[|｜][^\s<>|｜]{1,64}[|｜]>')

# Counted, not scored: words that announce a second look. The Chinese forms mean "wait", "check anew", "check",
# "think again".
REFLECTION_WORDS = (
  'wait',
  'recheck',
  're-check',
  'reevaluate',
  're-evaluate',
  'rethink',
  'reconsider',
  'let me check',
  'let me verify',
  'double-check',
  'try again',
  '等等',
  '等一下',
  '检查',
  '再想',
  *(f'重新{act}' for act in '检查 计算 算 考虑 审视 思考 想 验证 验算 核对 推导 分析 看 来 审题'.split()),
)
# Where they mean something else: people who wait for a bus or may try again, inspectors, and 等等 as "and so on".
_BEFORE = (
  "to will must can may should would could cannot not can't they he she we you i people the a long average"
).split()
_BEHIND = 'for until till on in at outside there here time times list'.split()
_FALSE_FRIENDS = {
  'wait': (''.join(rf'(?<!\b{word} )' for word in _BEFORE), rf'(?!(?: |-)(?:{"|".join(_BEHIND)})(?![a-z]))'),
  'try again': (''.join(rf'(?<!\b{word} )' for word in _BEFORE if word != 'to'), ''),
  '等等': ('(?:(?<![\u4e00-\u9fff0-9、…）)》」”])|(?<=[对哦嗯啊呃但]))', '(?![的之])'),
  '等一下': ('(?<![请稍])', ''),
  '检查': ('(?<![被的])', '(?![员站出])'),
}

# The wording of Table 1 of the DeepSeek-R1 report.
_R1_ZERO = (
  'A conversation between User and Assistant. The user asks a question, and the Assistant solves it. '
  'The assistant first thinks about the reasoning process in the mind and then provides the user with the answer. '
  'The reasoning process and answer are enclosed within <think> </think> and <answer> </answer> tags, respectively, '
  'i.e., <think> reasoning process here </think> <answer> answer here </answer>. User: {problem}. Assistant:'
)


@dataclasses.dataclass(frozen=True)
class Template:
  """A prompt around one problem; `text` holds the place `{problem}` once.

  With `chat` it is what the user says, and the model's own chat template goes around it.
  """

  text: str
  chat: bool = False

  def format(self, problem):
    """problem: dict with 'problem'. Returns the prompt; braces and tags in the problem stay as they are.

    Where nothing but white space follows a problem that ends in `<think>`, a full stop is put behind it: the tag of a
    problem must not open the thinking. (A chat template goes on behind the problem.)
    """
    last = not self.chat and not self.text.rpartition('{problem}')[2].strip()
    return self.text.replace('{problem}', closed(problem['problem']) if last else problem['problem'])


TEMPLATES = {
  'r1_zero': Template(_R1_ZERO),
  'r1_zero_open': Template(_R1_ZERO + ' ' + THINK),
  'plain': Template('{problem}\n'),
  'chat': Template('{problem}', chat=True),
  # As DeepSeek-R1 and Qwen2.5-Math are asked.
  'chat_boxed': Template(
    '{problem}\nPlease reason step by step, and put your final answer within \\boxed{}.', chat=True
  ),
  'chat_boxed_zh': Template('{problem}\n请逐步推理，并把最终答案放在 \\boxed{} 中。', chat=True),
}


def own(problem, template):
  """The template of a problem: the one of TEMPLATES that its field 'template' names, else `template`."""
  name = problem.get('template')
  return TEMPLATES.get(name, template) if isinstance(name, str) else template


@dataclasses.dataclass(frozen=True)
class Parsed:
  """What `parse` found; a part that is not there is None."""

  thinking: str | None
  answer: str | None
  well_formed: bool


def opens_thinking(prompt, tag=THINK):
  """Whether the prompt ends in `tag`, with or without white space behind it, as DeepSeek-R1's ends in `<think>\\n`."""
  return prompt.rstrip().endswith(tag)


def closed(text):
  """A text that opens no thinking: with a full stop behind it where it ends in `<think>`."""
  return text + '.' if opens_thinking(text) else text


def completed(prompt, response, tag=THINK):
  """The response as one text to parse: with the `tag` that its prompt has already opened."""
  return tag + response if opens_thinking(prompt, tag) else response


def parse(text):
  """Splits a response into thinking and answer.

  Well formed is exactly one `<think>..</think>`, then exactly one `<answer>..</answer>`, and nothing
  but white space before, between and after. Empty parts are well formed: content is for other
  rewards to judge. Where it is not well formed, `answer` is what the last `</answer>` closes, back to
  the nearest `<answer>`, and `thinking` what the first `<think>` opens, up to its end or the text's.

  Args:
    text: the response; see `completed` for prompts that open the thinking.

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
  """Where what follows the thinking begins: after the last `</think>`, or at 0 where there is no think tag.

  None where the thinking is not closed: a `<think>` stands after the last `</think>`. Every reward that reads a
  response's answer or summary goes by this rule.
  """
  end = text.rfind(THINK_END)
  start = end + len(THINK_END) if end >= 0 else 0
  return None if text.find(THINK, start) >= 0 else start


def summary(text):
  """What follows the thinking, by the rule of `summary_start`; None where the thinking is not closed."""
  start = summary_start(text)
  return None if start is None else text[start:]


def answer_span(text):
  """(start, end) of what the last `</answer>` closes, back to the nearest `<answer>`; None where there is none."""
  end = text.rfind(ANSWER_END)
  start = text.rfind(ANSWER, 0, end) if end >= 0 else -1
  return (start + len(ANSWER), end) if start >= 0 else None


def _answer(text):
  span = answer_span(text)
  return text[span[0] : span[1]] if span else None


def _well_formed(text):
  return all(r1_zero_conditions(text).values())


def r1_zero_conditions(text):
  """The form of R1-Zero, as a dict: condition -> whether it is met. All of them is `Parsed.well_formed`."""
  once = {f'{tag} once': text.count(tag) == 1 for tag in TAGS}
  think, think_end, answer, answer_end = at = [text.find(tag) for tag in TAGS]
  order = all(once.values()) and at == sorted(at)
  outside = text[:think], text[think_end + len(THINK_END) : answer], text[answer_end + len(ANSWER_END) :]
  return once | {'in order': order, 'nothing outside': order and not any(part.strip() for part in outside)}


def r1_conditions(text):
  """The form of R1: one `<think>..</think>` at the start, then a summary that is not empty. As r1_zero_conditions."""
  once = {f'{tag} once': text.count(tag) == 1 for tag in (THINK, THINK_END)}
  order = all(once.values()) and text.find(THINK) < text.find(THINK_END)
  return once | {
    'in order': order,
    'nothing before': order and not text[: text.find(THINK)].strip(),
    'a summary': order and bool(text[text.find(THINK_END) + len(THINK_END) :].strip()),
  }


def special_conditions(text, token):
  """The form of R1's cold start: `token`, reasoning, `token`, a summary that is not empty. As r1_zero_conditions."""
  twice = text.count(token) == 2
  return {
    'token twice': twice,
    'nothing before': twice and not text[: text.find(token)].strip(),
    'a summary': twice and bool(text[text.rfind(token) + len(token) :].strip()),
  }


def control_tokens(text):
  """The set of texts in `text` that have the form of control tokens."""
  return set(_CONTROL.findall(text))


def _reflection_pattern():
  # Longest first, so that a word inside a longer one is not counted twice. An English word must stand
  # alone; Chinese has no spaces between words. No quantifier, hence no backtracking.
  words = sorted(REFLECTION_WORDS, key=len, reverse=True)
  friends = [(word, *_FALSE_FRIENDS.get(word, ('', ''))) for word in words]
  return '|'.join(
    before + (rf'(?<![a-z]){re.escape(word)}(?![a-z])' if word.isascii() else word) + behind
    for word, before, behind in friends
  )


REFLECTION = _reflection_pattern()  # of text in small letters
_REFLECTION = re.compile(REFLECTION)


def reflections(text):
  """How many REFLECTION_WORDS the text holds in that sense, without regard to case and without overlaps."""
  return len(_REFLECTION.findall(text.lower()))
