"""The grammar of facts: kinds, phrasings, lexicons, parsing."""

from rwkvedit.facts.kinds import KINDS, Kind, fill
from rwkvedit.facts.parse import Fact, parse_fact, parse_facts, split_pair

__all__ = ["KINDS", "Fact", "Kind", "fill", "parse_fact", "parse_facts", "split_pair"]
