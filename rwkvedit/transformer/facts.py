"""Facts that an edit is not about, as prompts: what is kept is asked of these. Runs no model.

Which of them a model knows does not matter: kept means that its likeliest answer is the same as
before.
"""

from __future__ import annotations

import numpy as np

COUNTRIES = (
    "France", "Japan", "Italy", "Germany", "Spain", "Portugal", "China", "Russia", "Greece",
    "Sweden", "Norway", "Denmark", "Austria", "Hungary", "Ireland", "Canada", "Chile", "Cuba",
    "Mexico", "Kenya", "Thailand", "Vietnam", "Indonesia", "Pakistan", "the Netherlands", "Israel",
    "Cambodia", "England", "South Korea", "Egypt", "Poland", "Finland", "Australia", "India",
    "Brazil", "Argentina", "Peru", "Turkey", "Iran", "Nigeria", "Ukraine", "Belgium", "Switzerland",
)  # fmt: skip
CITIES = (
    "Paris", "Tokyo", "Rome", "Berlin", "Madrid", "Lisbon", "Beijing", "Moscow", "Athens", "London",
    "New York", "Chicago", "Toronto", "Sydney", "Cairo", "Istanbul", "Mumbai", "Seoul", "Bangkok",
    "Dublin", "Vienna", "Prague", "Warsaw", "Oslo", "Stockholm", "Barcelona", "Milan", "Munich",
)  # fmt: skip
PEOPLE = (
    "Albert Einstein", "Marie Curie", "Isaac Newton", "Charles Darwin", "William Shakespeare",
    "Leonardo da Vinci", "Wolfgang Amadeus Mozart", "Napoleon Bonaparte", "Abraham Lincoln",
    "Galileo Galilei", "Pablo Picasso", "Nelson Mandela", "Mahatma Gandhi", "Barack Obama",
    "Winston Churchill", "Ludwig van Beethoven", "Vincent van Gogh", "Sigmund Freud", "Karl Marx",
    "Michael Jackson", "Steve Jobs", "Bill Gates", "Martin Luther King", "Cristiano Ronaldo",
)  # fmt: skip
KINDS = (COUNTRIES, CITIES, PEOPLE)

GENERAL = (
    "The opposite of hot is", "The opposite of up is", "The color of grass is",
    "The largest planet in the solar system is", "Water is made of hydrogen and",
    "The sun rises in the", "A baby dog is called a", "The first month of the year is",
    "Romeo and Juliet was written by William", "The Great Wall is in",
    "The Eiffel Tower is in the city of", "The Statue of Liberty stands in New",
    "The currency of the United Kingdom is the", "The currency of Japan is the",
    "People in Spain speak", "People in Germany speak", "The language spoken in Brazil is",
    "The chemical symbol for gold is", "The square root of sixteen is",
    "The Pacific is the largest", "Mount Everest is the highest", "A triangle has three",
    "The human heart pumps", "Bees make", "The author of Harry Potter is",
    "The president of the United States lives in the White", "The capital of Texas is",
    "The river that flows through London is the", "Ice is frozen", "The theory of relativity is by",
    "The Mona Lisa was painted by", "The continent of Kenya is", "An octopus has eight",
    "The first president of the United States was George", "The fastest land animal is the",
)  # fmt: skip


def siblings(prompt: str, subject: str) -> list[str]:
    """The prompt asked of others of the subject's kind (countries, cities, people)."""
    for kind in KINDS:
        if subject in kind:
            return [prompt.replace(subject, other) for other in kind if other != subject]
    return []


def held_out(prompt: str, subject: str, n: int, rng: np.random.Generator) -> list[str]:
    """``n`` prompts that do not name the subject: half of its own kind, half of any other.

    Fewer where there are not that many.
    """
    near = siblings(prompt, subject)
    far = [
        text
        for text in [*GENERAL, *(f"{person} was born in" for person in PEOPLE)]
        if subject not in text
    ]
    take = min(len(near), n // 2)
    chosen = [near[i] for i in sorted(rng.permutation(len(near))[:take])]
    return chosen + [far[i] for i in sorted(rng.permutation(len(far))[: n - take])]
