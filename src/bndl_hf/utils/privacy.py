"""What of a text or of results may be published: no access token, no password, no path of somebody's machine.

`public_text` and `public_values` clean; `private_part` finds what must not be published as it stands. The rules prefer
to take away too much: a path loses all but its last part, a secret becomes "...".
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath
from typing import Any
from urllib.parse import unquote

HIDDEN = "..."

_SECRET_WORDS = ("token", "password", "passwd", "passphrase", "pwd", "secret", "credential", "credentials", "auth")
# What argparse accepts for --hub_token; by itself its last word is too short to be told from others.
_HUB_TOKEN = re.compile(r"hub[_-]t(o(k(en?)?)?)?")
# Access tokens of the Hub, OpenAI and its like, GitHub, GitLab, AWS, Slack, and JSON web tokens.
_TOKEN = re.compile(
    r"\b(?:(?:hf|api_org)_[A-Za-z0-9]{16,}|sk-[\w-]{20,}|gh[pousr]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}"
    r"|(?:AKIA|ASIA)[0-9A-Z]{16}|xox[abprs]-[\w-]{10,}|eyJ[\w-]{8,}\.eyJ[\w-]{8,}(?:\.[\w-]+)?)"
)
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}")
# "--hub_token x" and "--hub_token=x" inside a text; which flags are meant, `is_secret_name` decides.
_FLAG = re.compile(r"""(?<![\w-])--?([A-Za-z][\w-]*)(=|\s+)("[^"]*"|'[^']*'|[^\s"']+)""")
# HF_TOKEN=x, "password": "x", ?signature=x
_ASSIGNED = re.compile(
    r"(?i)(?<![\w-])([\w-]*(?:token|password|passwd|passphrase|secret|credentials?|api_?key|access_?key|private_?key"
    r"|signature)[\"']?\s*[:=]\s*)"
    r"""("[^"]*"|'[^']*'|[^\s"',;&{}\[\]]+)"""
)
# One character of a file's name; what separates entries of a list ends it only where another entry begins.
_CHARACTER = r"""(?:[^\s"'<>|/\\,;:]|[,;:](?![/\\~]|[A-Za-z]:[/\\]|[\w.-]+=|\s|$))"""
_FOLDER = rf"{_CHARACTER}+(?:\ (?![-$%~]){_CHARACTER}+){{0,4}}[/\\]+"  # a folder's name may hold a few spaces
_START = r"""
    (?:[\w.-]+@[\w.-]+:)?                                    # alice@server:/...
    (?: [A-Za-z]:[/\\]+ | \\\\+ | /+                         # C:\  C:/  \\server\  /
      | (?:~[\w.-]*|\$\{?HOME\}?|%(?:USERPROFILE|HOMEPATH|HOME|APPDATA|LOCALAPPDATA)%)[/\\]+  # ~/  $HOME/
      | (?:[\w.-]+[/\\]+)*\.\.[/\\]+                         # ../  outputs/../../
    )"""
_PATH_OR_URL = re.compile(
    rf"""(?P<url>(?<![\w.-])(?:[A-Za-z][A-Za-z0-9+.-]+://|file:/)(?:(?![,;](?:[/\\~]|[A-Za-z]:[/\\]))[^\s"'<>|])*)
    | (?P<path>(?<![\w.~/\\@-]){_START}(?:(?:{_FOLDER})+{_CHARACTER}*|{_CHARACTER}+))""",
    re.VERBOSE,
)
# Addresses of files on a machine; so is every address without a host (sqlite:////home/...).
_MACHINE_SCHEMES = ("file", "ssh", "sftp", "scp", "rsync", "smb", "nfs", "afp")
_HOME = re.compile(r"(?:~[\w.-]*|/root|.*[/\\](?:home|[Uu]sers)[/\\]+[^/\\]+)[/\\]*")

# Somebody's home, whoever they are, unless it is part of a web address; also as a file:// or percent-encoded address.
_ANY_HOME = re.compile(
    r"""(?i)(?<![\w.-])(?:(?:/mnt/[a-z]|[A-Z]:)?(?:/|\\+)(?:home|Users)[/\\]+[^\s"'/\\<>]+|/root/[^\s"'<>]+)"""
    r"|file:/+[^\s\"'<>]+|%2F(?:home|Users)%2F\w+"
)
_PASSWORD_IN_URL = re.compile(r"""\b[A-Za-z][A-Za-z0-9+.-]*://[^\s/"'<>@]*:[^\s/"'<>@]+@""")
# Whatever the three patterns above find has one of these in it, once it is in small letters. To look for them in a
# whole text takes a tenth of the time, and they lead to the few lines that are worth a closer look.
_SIGN = re.compile(
    r"hf_|api_org_|sk-|gh[pousr]_|github_pat_|glpat-|akia|asia|xox|eyj"
    r"|://|file:/|[/\\](?:home|users|root/)|%2f(?:home|users)"
)


def is_secret_name(name: str) -> bool:
    """Whether a flag, a key or a variable of this name holds a secret: hub_token, --hub-tok, API_KEY, userPassword.

    An abbreviation of three letters or more of its last word counts: argparse accepts it.
    """
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.strip("-")).lower()
    words = re.split(r"[\W_]+", name)
    last = words[-1] if len(words[-1]) >= 3 else None
    return (
        any(word in _SECRET_WORDS or word.endswith(("token", "password", "apikey")) for word in words)
        or words[-1] == "key"
        or (last is not None and any(secret.startswith(last) for secret in _SECRET_WORDS))
        or _HUB_TOKEN.fullmatch(name) is not None
    )


def public_text(text: str) -> str:
    """`text` with every path cut down to its last part, and "..." where a secret was.

    Names of the Hub, relative paths below the working folder and web addresses stay as they are; addresses lose user
    and password.

    Example:
        >>> public_text("finetune.py --hub_token hf_abc --dataset_name /home/jo/pets --model org/name")
        'finetune.py --hub_token ... --dataset_name pets --model org/name'
    """
    text = _FLAG.sub(lambda m: f"{m[0][: m.start(3) - m.start()]}{HIDDEN}" if is_secret_name(m[1]) else m[0], text)
    text = _ASSIGNED.sub(_without_value, text)
    text = _TOKEN.sub(HIDDEN, _BEARER.sub(rf"\1 {HIDDEN}", text))
    return _PATH_OR_URL.sub(lambda match: _public_url(match["url"]) if match["url"] else last_part(match[0]), text)


def public_values(value: Any, name: str = "results") -> Any:
    """`value` with every text in it cleaned, keys included; lists and tuples become lists, paths their last part.

    Args:
        value: numbers, texts, paths, lists and dictionaries of them; anything else is handed on.
        name: what errors call it.

    Raises:
        ValueError: two keys of a dictionary are the same once they are cleaned.
    """
    if isinstance(value, Mapping):
        cleaned: dict[str, Any] = {}
        for key, entry in value.items():
            public = public_values(os.fspath(key)) if isinstance(key, str | os.PathLike) else str(key)
            if public in cleaned:
                raise ValueError(
                    f"{name} has two keys that are {public!r} without what is private in them; give them other names."
                )
            is_secret = isinstance(entry, str | bytes) and is_secret_name(str(key))
            cleaned[public] = HIDDEN if is_secret else public_values(entry, f"{name}[{public!r}]")
        return cleaned
    if isinstance(value, list | tuple):
        return [public_values(entry, f"{name}[{number}]") for number, entry in enumerate(value)]
    if isinstance(value, os.PathLike):
        path = os.fspath(value)
        return last_part(path) if os.path.isabs(path) else public_text(path)
    return public_text(value) if isinstance(value, str) else value


def last_part(path: str) -> str:
    """A path's last part; of somebody's home, whose last part is their name, "~"."""
    if _HOME.fullmatch(path) or path.rstrip("/\\") == str(Path.home()):
        return "~"
    return PureWindowsPath(path).name or "."  # understands / and \ alike


def private_part(text: str) -> str | None:
    """What of a text must not be published: somebody's home, an address with a password, an access token; or None.

    A secret is named, not repeated.
    """
    lines = _lines_with_a_sign(text)
    if _TOKEN.search(lines):
        return "an access token"
    if match := _PASSWORD_IN_URL.search(lines):
        return f"a password in an address ({match[0].split('://')[0]}://...)"
    match = _ANY_HOME.search(lines)
    return match[0] if match else None


def _lines_with_a_sign(text: str) -> str:
    """The lines of `text` in which something private can be, none of which goes over the end of a line."""
    small = text.casefold()
    if len(small) != len(text):  # a letter such as ß became two, and places in the one are not places in the other
        return text
    lines, end = [], 0
    while match := _SIGN.search(small, end):
        start = text.rfind("\n", 0, match.start()) + 1
        end = text.find("\n", match.end())
        lines.append(text[start:] if end < 0 else text[start:end])
        if end < 0:
            break
    return "\n".join(lines)


def _without_value(match: re.Match[str]) -> str:
    quote = match[2][0] if match[2][0] in "\"'" else ""
    return f"{match[1]}{quote}{HIDDEN}{quote}"


def _public_url(url: str) -> str:
    """A web address without user and password, and without paths in its query; of a machine's file its last part."""
    scheme, rest = url.split(":", 1)
    if not rest.startswith("//") or rest.startswith("///") or scheme.lower().split("+")[0] in _MACHINE_SCHEMES:
        return last_part(unquote(re.sub(r"[?#].*", "", rest)))
    address, query, queried = rest[2:].partition("?")
    host, slash, path = address.partition("/")
    if query:
        queried = _PATH_OR_URL.sub(lambda match: last_part(match["path"]) if match["path"] else match[0], queried)
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}{query}{queried}"
