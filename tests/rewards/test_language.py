"""Language consistency."""
import pytest

from r1jax import rewards


@pytest.mark.parametrize('text, english, total', [
    ('so the answer is', 4, 4),
    ('先算 then add', 2, 4),
    ('加八 43', 0, 2),
    ('<think>so</think><answer>那么</answer>', 1, 3),
    (r'so \frac{1}{2} x + y = \sqrt{3} 因此', 1, 3),
    ('слово word', 1, 2),
    ('add加add减', 2, 4),
    ('it is 12kg', 3, 3),
])
def test_share_of_words(text, english, total):
  assert rewards.language_consistency(text, 'en') == pytest.approx(english / total)
  chinese = sum('\u4e00' <= c <= '\u9fff' for c in text)
  assert rewards.language_consistency(text, 'zh') == pytest.approx(chinese / total)


@pytest.mark.parametrize('text', ['', '  ', '36 - 3 = 33', 'x + y', r'\alpha\beta', '<think></think>', '①②', 'α + π'])
def test_nothing_to_count_is_consistent(text):
  assert rewards.language_consistency(text, 'en') == rewards.language_consistency(text, 'zh') == 1.0


def test_chinese_cannot_hide_in_mathematics():
  assert rewards.language_consistency(r'so $先算$ \text{加}', 'en') == pytest.approx(1 / 4)


def test_an_unknown_language_is_refused():
  with pytest.raises(ValueError, match="'fr' is not known"):
    rewards.language_consistency('le mot', 'fr')
