"""Small tokenizers like those of the model families, and texts that are difficult for them."""

import json
import random

import pytest
import tokenizers as library

from r1jax import tokenizers
from r1jax.data.toy import arithmetic

CHATML = (
  "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content | trim + '<|im_end|>' + '\n' }}"
  "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

CORPUS = [
  '',
  ' ',
  '\n',
  '  two leading and trailing  ',
  '\ttab\t\ttabs',
  'line\nline\r\n\r\n  line\n',
  "don’t I'LL we've",
  '北京的天气怎么样？很好！',
  '日本語のテキスト',
  '한국어 텍스트',
  'Ελληνικά, русский, עברית, العربية',
  'emoji 👍🏽 👨‍👩‍👧‍👦 🏳️‍🌈 🇩🇪 ❤️',
  'e\u0301 a\u0308\u0323 \u0301\u0302 lone marks',
  'ﬁ ① Ⅷ ｆｕｌｌ',
  'def f(x):\n    return {"a": [x ** 2, ~x]}  # comment\n\n\nclass A:\n\tpass',
  '<div class="a">&amp;</div>',
  r'\frac{\partial f}{\partial x} = \sum_{i=1}^{n} \alpha_i^2 \cdot \left\langle x, y \right\rangle',
  '$$x^{2}$$',
  '1234567890 3.14159 1,000,000 ½ ٣٤',
  '\x00',
  'a\x00b\x01\x1f\x7f\x80\x9f',
  '\u200b\u200d\ufeff\u2028\u00a0',
  '▁▁ ▁a',
  '\ufffd',
  'a\ufffd\ufffdb',
  '\U0010ffff\ue000\uf8ff',
  '<|im_end|>',
  'a <|im_start|>system\nhello<|im_end|>\n',
  '<think>wait</think> <think',
  '<|<|im_end|>|>',
  '<｜User｜>a<｜end▁of▁sentence｜>',
  '</s><pad><unk><0x41>',
  'aaaaaaaaaaaaaaaaaaaaaaaa',
  'x' * 2000,
]


def _random_texts():
  rng = random.Random(0)
  words = [*CORPUS, *'abc 019.,\n\t<>|/_éß汉字🙂👍', '  ', '<think>', '</think>', '<|im_end|>', '<｜Assistant｜>']
  mixed = [''.join(rng.choices(words, k=rng.randrange(1, 8))) for _ in range(150)]
  ranges = [range(0x300), range(0xD800), range(0xE000, 0x110000)]
  return mixed + [''.join(chr(rng.choice(rng.choice(ranges))) for _ in range(20)) for _ in range(150)]


TEXTS = CORPUS + _random_texts()


@pytest.fixture(scope='session')
def texts():
  return TEXTS


def _write(path, *, first, later, digits, normalizer, chat_template, eos, bos=None, ends=None):
  """Writes a byte-level tokenizer; first: tokens in the model's own vocabulary, later: tokens added after it."""
  path.mkdir()
  tk = library.Tokenizer(library.models.BPE())
  tk.normalizer = normalizer
  words = (
    rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*"
    r'|\s*[\r\n]+|\s+(?!\S)|\s+'
  )
  tk.pre_tokenizer = library.pre_tokenizers.Sequence(
    [
      library.pre_tokenizers.Split(library.Regex(words), 'isolated'),
      library.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
  )
  tk.decoder = library.decoders.ByteLevel()
  tk.post_processor = library.processors.ByteLevel(trim_offsets=False)
  trainer = library.trainers.BpeTrainer(
    vocab_size=900,
    show_progress=False,
    special_tokens=[library.AddedToken(t, special=True) for t in first],
    initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
  )
  tk.train_from_iterator([*CORPUS[:-1], *arithmetic.documents('chain', 0, 20)], trainer)
  tk.add_tokens([library.AddedToken(t, special=special, normalized=False) for t, special in later])
  tk.enable_truncation(8)  # a trainer may leave this in the file
  tk.save(str(path / 'tokenizer.json'))
  config = {
    'tokenizer_class': 'PreTrainedTokenizerFast',
    'bos_token': bos,
    'eos_token': eos,
    'pad_token': eos,
    'add_bos_token': False,
    'clean_up_tokenization_spaces': False,
    'chat_template': chat_template,
  }
  (path / 'tokenizer_config.json').write_text(json.dumps(config))
  if ends:
    (path / 'generation_config.json').write_text(json.dumps({'eos_token_id': [tk.token_to_id(t) for t in ends]}))
  return path


@pytest.fixture(scope='session')
def qwen(tmp_path_factory):
  """Directory with a tokenizer like that of Qwen: two end tokens, and `<think>` is added but not special."""
  later = [(token, True) for token in ('<|endoftext|>', '<|im_start|>', '<|im_end|>')]
  later += [('<think>', False), ('</think>', False)]
  return _write(
    tmp_path_factory.mktemp('models') / 'qwen',
    first=[],
    later=later,
    digits='',
    eos='<|im_end|>',
    normalizer=library.normalizers.NFC(),
    ends=['<|im_end|>', '<|endoftext|>'],
    chat_template=[{'name': 'tool_use', 'template': '{{'}, {'name': 'default', 'template': CHATML}],
  )


@pytest.fixture(scope='session')
def deepseek(tmp_path_factory):
  """Directory with a tokenizer like that of DeepSeek: two special tokens are in the model's own vocabulary."""
  later = [('<｜User｜>', False), ('<｜Assistant｜>', False), ('<think>', False), ('</think>', False)]
  return _write(
    tmp_path_factory.mktemp('models') / 'deepseek',
    later=later,
    digits='{1,3}',
    normalizer=None,
    first=['<｜begin▁of▁sentence｜>', '<｜end▁of▁sentence｜>'],
    bos='<｜begin▁of▁sentence｜>',
    eos='<｜end▁of▁sentence｜>',
    chat_template=tokenizers.CHAT_TEMPLATES['r1'],
  )


@pytest.fixture(scope='session')
def sentencepiece(tmp_path_factory):
  """Directory with a tokenizer.model that is trained here, and its conversion for transformers."""
  path = tmp_path_factory.mktemp('models') / 'ours'
  path.mkdir()
  lines = [
    line for world in arithmetic.WORLDS for text in arithmetic.documents(world, 0, 200) for line in text.split('\n')
  ]
  tokenizers.train(lines, path / 'tokenizer.model', 512)
  tokenizers.to_tokenizer_json(path / 'tokenizer.model', path / 'tokenizer.json')
  config = tokenizers.transformers_config(tokenizers.load(path))
  (path / 'tokenizer_config.json').write_text(json.dumps(config))
  return path


@pytest.fixture(params=['qwen', 'deepseek', 'sentencepiece'])
def directory(request):
  return request.getfixturevalue(request.param)


@pytest.fixture(params=['qwen', 'deepseek'])
def byte_level(request):
  return request.getfixturevalue(request.param)


@pytest.fixture
def reference():
  """directory -> transformers' tokenizer of it."""
  transformers = pytest.importorskip('transformers', reason='needs transformers: install r1jax[torch-parity]')
  return lambda path: transformers.AutoTokenizer.from_pretrained(str(path), local_files_only=True)
