"""The settings of the problems that a run trains on and is evaluated on."""

import dataclasses

from r1jax.config.conversion import require


@dataclasses.dataclass(frozen=True)
class Rows:
  """Rows of one source, and how each becomes a problem."""

  # These three as in Data.
  source: str
  path: str = ''
  name: str = ''
  # The kind of all its problems; '': the field 'kind' of each problem, or the name of the part or task where there is
  # none.
  kind: str = ''
  # Target of the language consistency reward for all its problems; '': the field 'language' of each problem, or
  # data.language where there is none.
  language: str = ''
  template: str = ''  # replaces data.template; '': data.template
  answers: bool = True  # False: rows need no field 'answer'
  # Text of a problem, with row fields in braces, such as '{problem}\n{asserts}'; '{asserts:1}' shows only the first
  # item of a list. '': the row's field 'problem'.
  problem: str = ''
  fields: dict[str, str] = dataclasses.field(default_factory=dict)  # renames row fields: name in the file -> our name
  # {field: allowed values}: rows of `path` with any other value are left out.
  filter: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Part(Rows):
  """One part of a mixture: problems of one sort."""

  # These two as in Data.
  eval_path: str = ''
  eval_fraction: float = 0.05
  weight: float = 1.0  # share of a step's prompts relative to the other parts; a part with weight 0 is not even read
  start_step: int = 0  # first step in which problems of this part are drawn
  eval_filter: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)  # `filter` of eval_path


@dataclasses.dataclass(frozen=True)
class Data:
  # A key of r1jax.data.SOURCES ('jsonl', 'tfds' or a toy world), or 'mixture', which is made of `parts`.
  source: str
  path: str = ''  # file (jsonl) or data_dir (tfds) of the training problems
  eval_path: str = ''  # the same for held-out problems; '' holds out eval_fraction of `path`
  eval_fraction: float = 0.05  # share of the problems that is held out, chosen by a hash of the problem's text
  name: str = ''  # TFDS builder name, for source 'tfds'
  template: str = 'plain'  # prompt template: a key of r1jax.templates.TEMPLATES
  chat_template: str = ''  # a key of r1jax.tokenizers.CHAT_TEMPLATES that replaces the model's own; '': the model's own
  language: str = 'en'  # target of the language consistency reward, for problems without a language
  parts: dict[str, Part] = dataclasses.field(default_factory=dict)  # for source 'mixture': part name -> part
  # Evaluation sets for decontamination, as in Curate: training problems that contain one of their problems are dropped
  # and counted.
  evaluation: tuple[str, ...] = ()
  # In RL, training problems whose pass rate so far is at least this are not drawn again (ScaleRL: 0.9). 0: off.
  drop_solved: float = 0.0

  def __post_init__(self):
    if self.source != 'mixture':
      require(
        not self.parts,
        f"data.parts has {', '.join(self.parts)}, but data.source is {self.source!r}; set data.source to 'mixture'.",
      )
      return
    require(
      not self.path and not self.eval_path,
      f'data.path {self.path or self.eval_path!r} would not be read: a mixture reads the paths of data.parts.',
    )
    require(
      any(part.weight for part in self.parts.values()),
      "data.source is 'mixture', but no part of data.parts has a weight above 0; add one.",
    )
    starts = [part.start_step for part in self.parts.values() if part.weight]
    require(
      min(starts) == 0,
      f'no part of the mixture is drawn before step {min(starts)}; set start_step of at least one of data.parts to 0.',
    )
