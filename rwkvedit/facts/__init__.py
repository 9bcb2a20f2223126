"""The grammar of facts: kinds, phrasings, lexicons, parsing."""

from rwkvedit.facts.kinds import Kind, fill
from rwkvedit.facts.parse import Fact, parse_fact, parse_facts, split_pair
from rwkvedit.facts.phrasings import KINDS

__all__ = ["KINDS", "Fact", "Kind", "fill", "parse_fact", "parse_facts", "split_pair"]
