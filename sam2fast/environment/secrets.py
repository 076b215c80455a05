"""Keeps passwords, tokens and the user's name out of what is shown to others."""

import os
import re
from pathlib import Path
from typing import Any

MASK = "***"
# A variable of such a name holds a secret, whatever its value looks like.
SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|AUTH|COOKIE|(^|_)KEY($|_)|APIKEY", re.IGNORECASE)
# Shorter values of such variables are no secrets, such as 0 and true.
SHORTEST_SECRET = 6
LOGIN_IN_ADDRESS = re.compile(r"(?<=://)[^/@\s]+@")
SECRET_IN_QUERY = re.compile(r"(?i)([?&][\w.-]*(?:token|key|secret|signature|sig|password|auth)[\w.-]*=)[^&\s]+")
# As hubs make them, wherever they stand.
KNOWN_TOKENS = re.compile(r"\b(hf_|ghp_|github_pat_|glpat-|sk-|AKIA)[A-Za-z0-9_-]{8,}")


def is_secret(name: str) -> bool:
    """Whether the value of a variable of this name must not be shown."""
    return SECRET_NAME.search(name) is not None


def without_secrets(value: Any) -> Any:
    """The same with secrets masked and the home directory as ``~``, in every text of any nesting, keys included."""
    if isinstance(value, dict):
        return {_text(str(key)): without_secrets(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets(entry) for entry in value]
    return _text(value) if isinstance(value, str) else value


def _text(text: str) -> str:
    for name, secret in os.environ.items():
        if is_secret(name) and len(secret) >= SHORTEST_SECRET:
            text = text.replace(secret, MASK)
    text = LOGIN_IN_ADDRESS.sub(f"{MASK}@", text)
    text = SECRET_IN_QUERY.sub(rf"\g<1>{MASK}", text)
    text = KNOWN_TOKENS.sub(MASK, text)
    return _with_short_home(text)


def _with_short_home(text: str) -> str:
    try:
        home = str(Path.home())
    except RuntimeError:  # there is none
        return text
    if len(home) < 2:  # the root of everything
        return text
    # Only whole folders: /home/me is none of the beginnings of /home/mercury.
    return re.sub(re.escape(home) + r"(?![\w.-])", "~", text)
