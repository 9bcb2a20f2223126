"""The grammar of facts: kinds, phrasings, lexicons, parsing."""
