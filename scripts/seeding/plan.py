"""Which runs a made-up log has, whose they are and when: a function of the seed and the options."""

from random import Random
from typing import Final, NamedTuple
from uuid import NAMESPACE_OID, uuid5

from seeding.stories import EVENTS_OF, HUNDRED, MICROSECONDS, Life, under_way

from runs_domain.ids import AccountId, KeyId, Position

RUNS_A_BATCH: Final = 2_000
SECONDS_BETWEEN_RUNS: Final = 0.25
LAST_RUN_SECONDS: Final = 60.0
"""What a batch's last runs are given to end in, before the next batch begins."""
POOL_CHARS: Final = 1 << 16
TOLD: Final = (
    "the run of a model with its tools in one box and what it told was kept by the log so that"
    " nobody lost a word when its worker died and an hour later all could be read again"
)


class Plan(NamedTuple):
    """The same plan makes the same runs; sealing alone is left to chance."""

    seed: int
    runs: int
    live: int
    """The last so many are still under way."""
    accounts: int
    content_bytes: int
    begin: int
    """Microseconds since 1970."""
    stretch: float
    """Time goes by so much slower or faster, to fit between what is there and now."""
    position: Position
    """Of the event before the first."""
    secret_version: int
    """Of the server secret that run keys are derived under."""

    @property
    def batches(self) -> int:
        return -(-self.runs // RUNS_A_BATCH)

    def lives(self, batch: int) -> list[Life]:
        """Of each hundred runs the mix is exact; what comes when is up to chance."""
        chance = Random(f"{self.seed}:lives:{batch}")  # noqa: S311 - no secret
        first = batch * RUNS_A_BATCH
        last = min(self.runs, first + RUNS_A_BATCH)
        lives: list[Life] = []
        while len(lives) < last - first:
            lives += chance.sample(HUNDRED, len(HUNDRED))
        lives = lives[: last - first]
        ended = max(0, min(len(lives), self.runs - self.live - first))
        return lives[:ended] + [under_way] * (len(lives) - ended)

    def events_before(self, batch: int) -> int:
        whole = min(batch, max(0, self.runs - self.live) // RUNS_A_BATCH)
        a_batch = sum(map(EVENTS_OF.__getitem__, HUNDRED)) * RUNS_A_BATCH // len(HUNDRED)
        rest = sum(sum(map(EVENTS_OF.__getitem__, self.lives(one))) for one in range(whole, batch))
        return whole * a_batch + rest

    @property
    def events(self) -> int:
        return self.events_before(self.batches)

    def begin_of(self, batch: int) -> int:
        seconds = batch * (RUNS_A_BATCH * SECONDS_BETWEEN_RUNS + LAST_RUN_SECONDS)
        return self.begin + int(seconds * self.stretch * MICROSECONDS)

    @property
    def end(self) -> int:
        return self.begin_of(self.batches)

    def account(self, number: int) -> AccountId:
        return AccountId(uuid5(NAMESPACE_OID, f"runledger seeded account {self.seed}:{number}"))

    def account_key(self, number: int) -> KeyId:
        return KeyId(uuid5(NAMESPACE_OID, f"runledger seeded key {self.seed}:{number}"))

    @property
    def words(self) -> bytes:
        """Plain words, of which every text is a piece."""
        chance = Random(f"{self.seed}:words")  # noqa: S311 - no secret
        words = chance.choices(TOLD.split(), k=POOL_CHARS + self.content_bytes)
        return " ".join(words).encode()
