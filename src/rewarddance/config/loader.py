"""From YAML and `--set` to a frozen config. Class defaults, then the file, then the overrides; the last word wins.

YAML is read with the safe loader and holds values only: no import paths, no tags.
"""

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from rewarddance.config.fields import closest_path, key_of_other_kinds, path_of
from rewarddance.core.errors import ConfigError, UsageError

Config = TypeVar("Config", bound=BaseModel)
Tree = dict[str, object]

_UNKNOWN_KEY = "extra_forbidden"
_MISSING_KEY = "missing"
_TOO_SHORT = "too_short"
_NO_KIND, _UNKNOWN_KIND = "union_tag_not_found", "union_tag_invalid"


def load_config(model_cls: type[Config], path: Path | None, overrides: Sequence[str] = ()) -> Config:
    """Read, override and check a config.

    Args:
        model_cls: Its schema.
        path: YAML file; None for defaults and overrides only.
        overrides: `key.path=value`, the value in YAML: `optimizer.learning_rate=1e-5`, `model.lora=null`.

    Raises:
        ConfigError: The file is missing or no YAML mapping, an override is malformed, or a key or value does not fit;
            the message names the dotted path and, for a typo, the nearest key.
    """
    where = "--set" if path is None else str(path)
    tree = {} if path is None else _read_mapping(path)
    for override in overrides:
        _apply(tree, override)
    try:
        return model_cls.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_one_line(model_cls, error)}") from error


def require_config(given: object, wanted: type[BaseModel]) -> None:
    """Stop at a mapping, or another config, where one of these is due.

    Raises:
        UsageError: It is something else.
    """
    if not isinstance(given, wanted):
        name = wanted.__name__
        raise UsageError(f"{type(given).__name__} is no {name}; {name}(**settings) makes one of a mapping")


def dump_config(config: BaseModel) -> str:
    """The resolved config as YAML, every default written out; `load_config` reads it back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


class _UniqueKeyLoader(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys without a word; here that is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        repeated = next((key for key in keys if keys.count(key) > 1), None)
        if repeated is not None:
            problem = f"key {repeated!r} stands twice"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return super().construct_mapping(node, deep)


def _read_mapping(path: Path) -> Tree:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"no config file {path}; check the path, or start from one in recipes/") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path} as text ({error}); give a YAML file") from error
    content = _parse_yaml(text, str(path))
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(
            f"{path} holds a {type(content).__name__}, not keys and values; see `rewarddance config show`"
        )
    return content


def _parse_yaml(text: str, where: str) -> object:
    try:
        # A subclass of the safe loader.
        return yaml.load(text, Loader=_UniqueKeyLoader)
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f" in line {error.problem_mark.line + 1}"
        raise ConfigError(f"{where} is not YAML{line}: {error.problem}; correct it there") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not YAML: {' '.join(str(error).split())}; correct it there") from error


def _apply(tree: Tree, override: str) -> None:
    dotted, equals, text = override.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set {override!r} is not KEY=VALUE; write for example --set optimizer.learning_rate=1e-5")
    for depth, key in enumerate(keys[:-1]):
        child = tree.get(key)
        if child is None:
            # `model.lora.rank=8` switches on a block that the file left out or set to null.
            child = tree[key] = {}
        if not isinstance(child, dict):
            raise ConfigError(f"--set {override!r}: {'.'.join(keys[: depth + 1])} is a value, not a block of keys")
        tree = child
    tree[keys[-1]] = _parse_yaml(text, f"--set {override!r}")


def _one_line(model_cls: type[BaseModel], error: ValidationError) -> str:
    problems = _distinct(model_cls, error.errors(include_url=False))
    # A misspelt key also leaves the real one missing: name the typo.
    problems.sort(key=lambda problem: problem["type"] != _UNKNOWN_KEY)
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return _sentence(model_cls, problems[0]) + more


def _distinct(model_cls: type[BaseModel], problems: Sequence[ErrorDetails]) -> list[ErrorDetails]:
    """Each mistake once: a wrong value is told for every type that was tried, and then shortens its list."""
    places = [problem["loc"] for problem in problems]
    own = [
        problem
        for problem in problems
        if problem["type"] != _TOO_SHORT
        or not any(place != problem["loc"] and place[: len(problem["loc"])] == problem["loc"] for place in places)
    ]
    return list({path_of(model_cls, problem["loc"]): problem for problem in reversed(own)}.values())[::-1]


def _sentence(model_cls: type[BaseModel], problem: ErrorDetails) -> str:
    dotted = path_of(model_cls, problem["loc"])
    if problem["type"] == _UNKNOWN_KEY:
        return _sentence_on_unknown_key(model_cls, dotted, problem["loc"])
    if problem["type"] == _MISSING_KEY:
        return f"{dotted!r} is missing; add it, or give --set {dotted}=VALUE"
    if problem["type"] in (_NO_KIND, _UNKNOWN_KIND):
        return _sentence_on_kind(dotted, problem)
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{dotted}: {message}" if dotted else message
    return f"{dotted!r} cannot be {problem['input']!r}; {message[0].lower()}{message[1:]}"


def _sentence_on_unknown_key(model_cls: type[BaseModel], dotted: str, location: Sequence[str | int]) -> str:
    other = key_of_other_kinds(model_cls, location)
    if other is not None:
        return (
            f"unknown key {dotted!r}, which belongs to {' and '.join(other.owners)}, and {other.block}.{other.chooses} "
            f"is {other.kind}; give the block anew, such as --set '{other.block}={{{other.chooses}: {other.kind}}}'"
        )
    nearest = closest_path(model_cls, dotted)
    advice = f"did you mean {nearest!r}?" if nearest else "`rewarddance config show` lists the keys"
    return f"unknown key {dotted!r}; {advice}"


def _sentence_on_kind(dotted: str, problem: ErrorDetails) -> str:
    """A block that comes in several kinds, such as `method`, does not say which one it is, or names none."""
    details = problem["ctx"]
    name = f"{dotted}.{str(details['discriminator']).strip(chr(39))}"
    if problem["type"] == _NO_KIND:
        return f"{name!r} is missing; add it, or give --set {name}=VALUE"
    return f"{name!r} cannot be {details['tag']!r}; choose from {details['expected_tags']}"
