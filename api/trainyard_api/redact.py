"""Blacks out what looks like a secret in text that leaves the pod's log for a status that many can read."""

import re

BLACKED_OUT = "[redacted]"

_PATTERNS = (
    # The part of a URL before the @: user:password, or a token alone.
    (re.compile(r"(?<=://)[^\s/@'\"]+(?=@)"), BLACKED_OUT),
    # Signatures and keys in the query of a URL: X-Amz-Signature, sig, AccessKeyId, ...
    (
        re.compile(
            r"(?i)([?&;][\w.-]*(?:sig|signature|token|key|keyid|secret|password|credential)=)[^\s&;'\"]+"
        ),
        rf"\1{BLACKED_OUT}",
    ),
    (re.compile(r"(?i)\b(bearer|authorization:\s*basic)\s+[\w.~+/=-]{8,}"), rf"\1 {BLACKED_OUT}"),
    # JSON Web Tokens, service account tokens among them.
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]+(?:\.[\w-]*)?"), BLACKED_OUT),
    # Keys that tell by their beginning whose they are.
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}\b"), BLACKED_OUT),
    (re.compile(r"\b(?:hf_|sk-|ghp_|gho_|github_pat_|glpat-|xox[abp]-)[\w-]{8,}"), BLACKED_OUT),
    # name=value and "name": "value" where the name says what the value is.
    (
        re.compile(
            r"(?i)((?:password|passwd|secret|token|api[_-]?key|access[_-]?key(?:[_-]?id)?|private[_-]?key)"
            r"['\"]?\s*[=:]\s*)(?:'[^']*'|\"[^\"]*\"|[^\s,;'\"&]+)"
        ),
        rf"\1{BLACKED_OUT}",
    ),
    (
        re.compile(
            r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL
        ),
        BLACKED_OUT,
    ),
    # What is left of a key whose beginning was cut off.
    (re.compile(r"(?m)(?:^[A-Za-z0-9+/=]+\n)+-----END [A-Z ]*PRIVATE KEY-----"), BLACKED_OUT),
)
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")


def redact(text: str) -> str:
    """The text without secrets, without terminal control codes, and safe to encode."""
    if not text:
        return text  # as most messages of pods are, and each event of theirs asks twice
    clean = _CONTROL.sub("", text.encode("utf-8", "replace").decode("utf-8"))
    for pattern, replacement in _PATTERNS:
        clean = pattern.sub(replacement, clean)
    return clean
