from r1jax.config.conversion import *  # noqa: F403
from r1jax.config.rl import *  # noqa: F403
from r1jax.config.stages import *  # noqa: F403
