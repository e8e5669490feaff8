"""A Dockerfile as its stages and instructions: as much of the syntax as ours uses."""

import json
import re
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction."""

    name: str
    """Its keyword, in upper case."""
    text: str
    """What follows, on one line."""

    @property
    def argv(self) -> list[str] | None:
        """The words of the exec form; None for the shell form."""
        if not self.text.startswith("["):
            return None
        words: list[str] = json.loads(self.text)
        return words

    @property
    def flags(self) -> dict[str, str]:
        """Its --name=value options."""
        return dict(re.findall(r"--([a-z-]+)=(\S+)", self.text))

    @property
    def operands(self) -> list[str]:
        """What follows the options, in the form without brackets."""
        return [word for word in self.text.split() if not word.startswith("--")]


@dataclass(frozen=True, slots=True)
class Stage:
    """What one FROM begins."""

    base: str
    """The image or stage that it begins with; build arguments with their defaults in place."""
    name: str
    instructions: list[Instruction] = field(default_factory=list)

    def all(self, *names: str) -> list[Instruction]:
        """Its instructions of some kinds."""
        return [instruction for instruction in self.instructions if instruction.name in names]


def parse(text: str) -> list[Stage]:
    """The stages of a Dockerfile.

    Raises:
        ValueError: an instruction other than ARG stands before the first FROM.
    """
    joined = re.sub(r"\\\n\s*", "", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE))
    arguments: dict[str, str] = {}
    stages: list[Stage] = []
    for line in filter(None, map(str.strip, joined.splitlines())):
        name, _, rest = line.partition(" ")
        instruction = Instruction(name.upper(), rest.strip())
        if instruction.name == "FROM":
            base, *alias = instruction.operands
            stages.append(Stage(_expanded(base, arguments), alias[1] if alias else ""))
        elif stages:
            stages[-1].instructions.append(instruction)
        elif instruction.name == "ARG":
            argument, _, default = instruction.text.partition("=")
            arguments[argument] = default
        else:
            raise ValueError(f"{line}: an instruction before the first FROM")
    return stages


def _expanded(text: str, arguments: dict[str, str]) -> str:
    return re.sub(r"\$\{(\w+)\}", lambda found: arguments[found[1]], text)


def lineage(stages: list[Stage], name: str) -> list[Stage]:
    """A stage and those that it is built on, the first one first."""
    by_name = {stage.name: stage for stage in stages}
    stage = by_name[name]
    return [*(lineage(stages, stage.base) if stage.base in by_name else []), stage]


def problems(text: str) -> list[str]:
    """What is wrong with a Dockerfile, by the rules that our images keep."""
    found: list[str] = []
    stages = parse(text)
    names = {stage.name for stage in stages}
    for stage in stages:
        if stage.base not in names:
            found += _base_problems(stage)
        for instruction in stage.instructions:
            found += [f"{stage.name}: {problem}" for problem in _instruction_problems(instruction)]
    return found


def _base_problems(stage: Stage) -> list[str]:
    _, _, tag = stage.base.rpartition("/")[2].partition(":")
    if not re.match(r"\d+\.\d+\.\d+", tag):
        return [f"{stage.name}: base {stage.base} is not pinned to a version"]
    return []


def _instruction_problems(instruction: Instruction) -> list[str]:
    text, found = instruction.text, []
    if instruction.name == "ADD":
        found.append("ADD fetches and unpacks; use COPY")
    if instruction.name == "HEALTHCHECK":
        found.append("HEALTHCHECK is what probes are for")
    if instruction.name == "COPY" and "chown" not in instruction.flags:
        found.append(f"COPY {text}: no --chown")
    if (
        instruction.name == "COPY"
        and instruction.operands[0] in (".", "/")
        and "from" not in instruction.flags
    ):
        found.append(f"COPY {text}: the whole context")
    if instruction.name == "USER" and not re.fullmatch(r"[1-9]\d*:[1-9]\d*", text):
        found.append(f"USER {text}: no numbers, or root")
    if instruction.name in ("ENTRYPOINT", "CMD", "RUN") and instruction.argv is None:
        found.append(f"{instruction.name} {text}: no exec form")
    if instruction.name in ("ENV", "ARG") and re.search(
        r"(?i)(token|password|secret|credential|api_?key)\w*=", text
    ):
        found.append(f"{instruction.name}: a secret stays in the image's history")
    if instruction.name == "RUN":
        found += _run_problems(instruction.argv or text.split())
    return found


def _run_problems(words: list[str]) -> list[str]:
    found = []
    if "apt-get" in words or "apt" in words:
        found.append("apt: its lists stay in the layer, and what it installs is not pinned")
    if "sudo" in words:
        found.append("sudo")
    if "curl" in words or "wget" in words:
        found.append("a download that nothing verifies")
    if "install" in words and "--no-cache" not in words and "--no-cache-dir" not in words:
        found.append("the cache of what is installed stays in the layer")
    if (
        "pip" in words
        and "install" in words
        and "--constraints" not in words
        and not any("==" in word for word in words)
    ):
        found.append("versions are not pinned")
    return found
