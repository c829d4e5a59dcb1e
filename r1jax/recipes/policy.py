"""A policy whose samples are wanted as texts: a model on the devices, or a teacher behind an endpoint."""

import json

import jax
import numpy as np

from r1jax import keys, rollout
from r1jax.batch import Pending, RolloutBatch
from r1jax.rewards import mix

REFUSED = 'refused'  # why a response ended, beside the engine's: the endpoint did not answer this


class Policy:
  """Graded samples of problems.

  Args:
    sampler: function from a template to a rollout.Sampler, all with one engine and grader.
    params: of the model, as the engine samples with; None for an endpoint.
    samples: responses to each problem.
    sampling: sampling.Sampling.
    key: PRNG key.
    reward: config.Reward, by which a response is right.
    max_prompt: tokens; for a Teacher any number from 1.
  """

  def __init__(self, sampler, params, samples, sampling, key, reward, max_prompt):
    self._sampler, self._params, self.samples, self._sampling = sampler, params, samples, sampling
    self._key, self._reward, self.max_prompt = key, reward, max_prompt

  def fits(self, problem, template):
    """Whether the problem's prompt is short enough; an endpoint says so itself."""
    sampler = self._sampler(template)
    return len(rollout.encode_prompt(sampler.tokenizer, sampler.template, problem)[1]) <= self.max_prompt

  def __call__(self, problems, template):
    """The rows of `start`, for all problems at once."""
    return self.start(problems, template, 0).result()[0]

  def start(self, problems, template, number):
    """Samples responses and hands them to the graders.

    Args:
      problems: list of P problems, of which all must fit.
      template: templates.Template, or what has its `format` and `chat`.
      number: of these problems in the run: the draws depend on it, on their order, and on nothing else.

    Returns:
      Pending (rows, timeouts), once they are graded: P * samples rows in order, each the problem with 'prompt',
      'response', 'tokens', 'stop', 'sample', 'reward', 'parts' and 'correct'.
    """
    if not problems:
      return Pending(lambda: ([], 0))
    sampler = self._sampler(template)
    filled = problems + problems[:1] * (-len(problems) % sampler.chunk)  # whole chunks: no new programs
    key = keys.fold_in(self._key, number)
    drawn, pending = sampler.start(self._params, filled, self.samples, key, self._sampling)

    def rows():
      scores = pending.result()
      right = mix.right(scores.parts, self._reward, drawn.items)
      return [self._row(drawn, scores, right, i) for i in range(len(problems) * self.samples)], scores.timeouts

    return Pending(rows)

  def _row(self, drawn, scores, right, i):
    at = divmod(i, self.samples)
    return drawn.items[i] | {
      'stop': str(drawn.batch.stop[at]),
      'sample': at[1],
      'reward': float(scores.total[at]),
      'parts': {name: float(x[at]) for name, x in scores.parts.items() if name in drawn.weights[i]},
      'correct': bool(right[i]),
    }


class Teacher:
  """An endpoint in the place of an engine and of its tokenizer: an id is here a whole conversation,
  or a whole response.

  Its tokens are as the endpoint counts them, or a fourth of the bytes where it does not.

  Args:
    complete: rewards.neural.endpoint.Endpoint with `whole`.
  """

  def __init__(self, complete):
    self._complete = complete

  def encode(self, text, bos=False):
    return self.chat([{'role': 'user', 'content': text}])

  def chat(self, messages, generate=True):
    return [[{'role': turn['role'], 'content': turn['content']} for turn in messages]]  # opens no thinking of ours

  def decode(self, ids):
    return ''.join(ids[:1])

  def response(self, ids):
    return self.decode(ids), ()  # an endpoint shows no control tokens

  def weights(self, params):
    return params

  def sample(self, weights, prompts, keys, sampling, version=0):
    """RolloutBatch of one response a key, by `complete`; the key gives the seed that it sends. A token is a text."""
    draws = np.asarray(jax.random.key_data(keys))[..., -1] >> 1  # [P, G], as non-negative int32
    chats = [chat for (chat,) in prompts for _ in draws[0]]
    found = [
      json.loads(said) if said is not None else {'response': '', 'stop': REFUSED, 'tokens': 0}
      for said in self._complete(chats, draws.reshape(-1).tolist())
    ]
    texts = [one['response'].encode('utf-8', 'replace').decode() for one in found]  # no half surrogate pairs
    counts = [
      -(-len(text.encode()) // 4) if one['tokens'] is None else max(one['tokens'], bool(text))
      for one, text in zip(found, texts)
    ]
    shape, nothing = draws.shape, np.zeros((*draws.shape, 1), np.float32)
    return RolloutBatch(
      prompts=np.zeros((shape[0], 1), np.int32),
      prompt_lengths=np.zeros(shape[0], np.int32),
      tokens=np.array([[text] for text in texts], object).reshape(*shape, 1),
      lengths=np.array(counts).reshape(shape),
      loss_mask=nothing > 0,
      sampler_logp=nothing,
      stop=np.array([one['stop'] for one in found]).reshape(shape),
    )
