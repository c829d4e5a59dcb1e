from r1jax.config.conversion import *  # noqa: F403
from r1jax.config.loss import *  # noqa: F403
from r1jax.config.problems import *  # noqa: F403
from r1jax.config.reward import *  # noqa: F403
from r1jax.config.reward_model import *  # noqa: F403
from r1jax.config.rl import *  # noqa: F403
from r1jax.config.sft import *  # noqa: F403
from r1jax.config.stages import *  # noqa: F403
