"""How annotations are checked while tests run: by beartype, with an int where a float is asked for, as mypy has it."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
