"""A model directory with the project's own sampler, as a function from chats to texts."""

import hashlib
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np

from r1jax import checkpoint, parallel, sampling
from r1jax import config as config_lib


class Local:
  """A function from chats to texts. With several processes, all must call it with the same chats.

  A text depends only on its chat, its draw and the seed: the random key is made of them, and the shape of a batch
  depends only on the lengths of its own prompts.

  Args:
    path: a Hugging Face directory, a GGUF file, an imported model or a run's folder.
    temperature: 0 is greedy.
    max_tokens: longest response in tokens; the prompt may use the rest of the model's context.
    batch: chats sampled at a time.
    seed: of the samples.
    chat_template: a key of tokenizers.CHAT_TEMPLATES to use in place of the model's own; '': the model's own.

  Raises:
    ConfigError, ModelDirError, TokenizerError: there is no such model, or it cannot chat.
  """

  def __init__(self, path, *, temperature=0.0, max_tokens=2048, batch=8, seed=0, chat_template=''):
    source = checkpoint.open_model(path)
    config_lib.require(source.cfg.head == 'tokens', f'{path} is a reward model; a judge must generate text.')
    config_lib.require(
      max_tokens < source.cfg.context,
      f"max_tokens {max_tokens} leaves no room for a prompt in the model's context of {source.cfg.context} tokens; "
      'lower it.',
    )
    config_lib.require(batch >= 1, f'batch is {batch}; it must be positive.')
    self._tokenizer = source.load_tokenizer(chat_template or None)
    self._tokenizer.chat([{'role': 'user', 'content': ''}])  # raises here, not later, if there is no template
    mesh = parallel.make_mesh(config_lib.Mesh())
    params = source.load(source.abstract(mesh))
    self._engine = sampling.Engine(
      source.cfg,
      self._tokenizer,
      mesh,
      max_prompt=source.cfg.context - max_tokens,
      max_response=max_tokens,
      precision=sampling.Precision(params['embed'].dtype.name),
    )
    self._weights = self._engine.prepare_params(params)
    self._batch = -(-batch // parallel.batch_shards(mesh)) * parallel.batch_shards(mesh)
    self._sampling, self._key = sampling.SamplingParams(temperature=temperature), jax.random.key(seed)

  def __call__(self, chats, draws=None):
    """Returns the model's response to each chat.

    Args:
      chats: list of lists of {'role', 'content'}.
      draws: an int per chat that distinguishes samples of the same chat; None: 0 for all.

    Returns:
      list of str; None for a chat that is longer than a prompt may be.
    """
    prompts = [self._tokenizer.chat(chat) for chat in chats]
    numbers = [_number(chat, draw) for chat, draw in zip(chats, draws or [0] * len(chats), strict=True)]
    texts: list[str | None] = [None] * len(chats)
    size = lambda i: (len(prompts[i]) - 1).bit_length()  # prompts are padded to powers of two
    fit = sorted((i for i, prompt in enumerate(prompts) if len(prompt) <= self._engine.max_prompt), key=size)
    with jax.transfer_guard('allow'):
      for _, same_size in itertools.groupby(fit, size):
        same_size = list(same_size)
        for first in range(0, len(same_size), self._batch):
          indices = same_size[first : first + self._batch]
          for i, text in zip(indices, self._sample([prompts[i] for i in indices], [numbers[i] for i in indices])):
            texts[i] = text
    return texts

  def _sample(self, prompts, numbers):
    fill = self._batch - len(prompts)  # always a full batch, so that there is one shape to compile
    prompts, numbers = prompts + prompts[:1] * fill, numbers + numbers[:1] * fill
    keys = jax.vmap(lambda n: jax.random.fold_in(jax.random.fold_in(self._key, n[0]), n[1]))(
      jnp.asarray(numbers, jnp.uint32)
    )
    out = self._engine.sample(self._weights, prompts, keys[:, None], self._sampling)
    return [self._tokenizer.decode(ids[:n]) for ids, n in zip(out.tokens[:, 0], out.lengths[:, 0])]


def _number(chat, draw):
  """Two 32-bit numbers that identify a chat and one of its samples."""
  return np.frombuffer(hashlib.sha256(json.dumps([chat, draw], sort_keys=True).encode()).digest()[:8], np.uint32)
