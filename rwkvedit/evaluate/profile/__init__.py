"""``bench profile``: thirteen questions about one edit, each with a threshold.

    registry    what a benchmark is, and the list of them; the place to add one
    knowledge   general knowledge that probes are made of
    probes      probes made from an edit's subject and relation, and which of them count
    making      an edit made singly, in a batch, or one after another, by any method
    case        one edit on one model: everything that the benchmarks look at
    direct, nearby, chained, many, tuned        the benchmarks, by what they ask
    running     the command: tasks, engine, checkpoint, the document

Definitions are the benchmarks' own docstrings, with their source; nothing else defines them.
"""
