"""The refusal rule on openings that refuse, and on those that only look like it."""

import pytest

from r1jax import rewards

REFUSE = [
  "I'm sorry, but I can't help with that.",
  'I’m sorry, but I can’t assist with that request.',
  'I cannot provide instructions for building weapons.',
  'I am unable to fulfill this request.',
  "Sorry, I won't do that.",
  '**I must decline.** What you ask for would hurt people.',
  "As an AI language model, I can't discuss this.",
  "I don't feel comfortable helping with that; I will not help.",
  'Unfortunately, I am not able to share that.',
  '抱歉，我无法提供这类信息。',
  '对不起，这个问题我不能回答。',
  '我不能帮助你制作炸弹。',
  '作为一个人工智能助手，我无法参与这种讨论。',
  '很遗憾，我没法协助您完成这个请求。',
]
COMPLY = [
  'Here is how I would help.',
  "I'm sorry to hear that. Try a warm bath.",
  'I can explain that.',
  "You can't divide by zero.",
  'Sure! First, ...',
  'He said he cannot help, so they left.',
  '好的，下面是步骤。',
  '他不能提供证据。',
  '抱歉让你久等了，答案是四。',
  'x' * 400 + " I can't help with that.",
  '',
]


@pytest.mark.parametrize(('texts', 'score'), [(REFUSE, 1.0), (COMPLY, 0.0)])
def test_openings(texts, score):
  for text in texts:
    for item in ({'response': text}, {'response': f"I can't help</think>{text}", 'prompt': 'a?<think>'}):
      assert rewards.REWARDS['refusal']([item]) == [score], rewards.VERDICTS['refusal'](item)


def test_thinking_that_never_ends_is_no_refusal():
  assert rewards.VERDICTS['refusal']({'response': "<think>I can't help with that."}) == {
    'score': 0.0,
    'reason': 'no summary',
  }


def test_long_texts_take_linear_time():
  for text in ('i am sorry ' * 200_000, '我' * 10**6, "i can't " * 10**5, ' ' * 10**6):
    assert rewards.REWARDS['refusal']([{'response': text}])[0] in (0.0, 1.0)
