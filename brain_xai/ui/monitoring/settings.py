"""What a maintainer sets to monitor the app: nothing is counted unless one of the first two is set.

BRAIN_XAI_MONITORING_TOKEN     opens the page /monitoring
BRAIN_XAI_MONITORING_DATASET   the data set on the Hub, "org/name", to which the counters are copied
BRAIN_XAI_MONITORING_DIR       where they are kept on this machine
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import cached_assets_path

MIN_TOKEN_LENGTH = 16
SHORT_TOKEN = (
    f"BRAIN_XAI_MONITORING_TOKEN has fewer than {MIN_TOKEN_LENGTH} characters and could be guessed. Make one with: "
    'python -c "import secrets; print(secrets.token_urlsafe())"'
)


@dataclass(frozen=True)
class Settings:
    """How the app is monitored; "" for what is off."""

    token: str = field(default="", repr=False)
    dataset: str = ""

    @classmethod
    def from_environment(cls) -> "Settings":
        """Read the settings; exits with a sentence if the token is too short."""
        token = os.environ.get("BRAIN_XAI_MONITORING_TOKEN", "")
        if token and len(token) < MIN_TOKEN_LENGTH:
            raise SystemExit(SHORT_TOKEN)
        return cls(token, os.environ.get("BRAIN_XAI_MONITORING_DATASET", ""))

    @property
    def is_counting(self) -> bool:
        """Whether anything is counted."""
        return bool(self.token or self.dataset)

    @property
    def folder(self) -> Path:
        """The folder of the counters, by default beside what the Hub's client keeps; creates the default one."""
        chosen = os.environ.get("BRAIN_XAI_MONITORING_DIR", "")
        return Path(chosen) if chosen else cached_assets_path("brain_xai", namespace="monitoring", subfolder="counters")
