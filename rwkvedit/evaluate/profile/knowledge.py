"""General knowledge that probes are made of: a few relations, and whom they hold for.

Not a database: names that any almanac has, so that a profile works without files. Nothing here is
taken for known: a probe counts only where the unedited model answers it as this list does. Add a
relation to RELATIONS, or a subject to its values, and every benchmark asks about it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Relation:
    """What holds between subjects of one kind and their values."""

    name: str
    kind: str
    """Of its subjects."""
    value_kind: str
    """Of its values: a relation whose subjects are of that kind makes a chain with this one."""
    prompts: tuple[str, ...]
    """Ways to ask, ``{}`` the subject, the value what follows. The first is the usual one."""
    values: Mapping[str, str]
    inverse: tuple[str, ...] = ()
    """Ways to ask back: ``{}`` the value, the subject what follows."""


def _table(text: str) -> dict[str, str]:
    """``a: x, y; b: z`` as ``{"x": "a", "y": "a", "z": "b"}``."""
    out = {}
    for row in text.split(";"):
        value, names = row.split(":")
        out |= {name.strip(): value.strip() for name in names.split(",")}
    return out


CAPITALS = {
    "France": "Paris", "Japan": "Tokyo", "Italy": "Rome", "Germany": "Berlin", "Spain": "Madrid",
    "Portugal": "Lisbon", "China": "Beijing", "Russia": "Moscow", "Greece": "Athens",
    "Sweden": "Stockholm", "Norway": "Oslo", "Denmark": "Copenhagen", "Austria": "Vienna",
    "Hungary": "Budapest", "Ireland": "Dublin", "Canada": "Ottawa", "Chile": "Santiago",
    "Cuba": "Havana", "Kenya": "Nairobi", "Thailand": "Bangkok", "Vietnam": "Hanoi",
    "Indonesia": "Jakarta", "Pakistan": "Islamabad", "the Netherlands": "Amsterdam",
    "Israel": "Jerusalem", "England": "London", "South Korea": "Seoul", "Egypt": "Cairo",
    "Poland": "Warsaw", "Finland": "Helsinki", "Australia": "Canberra", "Turkey": "Ankara",
    "Iran": "Tehran", "Iraq": "Baghdad", "Syria": "Damascus", "Lebanon": "Beirut",
    "Belgium": "Brussels", "Ukraine": "Kyiv", "Peru": "Lima", "Argentina": "Buenos Aires",
    "Bangladesh": "Dhaka", "the Philippines": "Manila", "Taiwan": "Taipei", "Romania": "Bucharest",
    "Bulgaria": "Sofia", "Iceland": "Reykjavik", "Scotland": "Edinburgh", "Wales": "Cardiff",
    "Malaysia": "Kuala Lumpur", "Afghanistan": "Kabul", "Ethiopia": "Addis Ababa",
    "Switzerland": "Bern", "Nigeria": "Abuja", "Nepal": "Kathmandu", "Serbia": "Belgrade",
}  # fmt: skip
LANGUAGES = _table(
    "French: France; Japanese: Japan; Italian: Italy; German: Germany, Austria; Spanish: Spain, "
    "Chile, Cuba, Peru, Argentina, Mexico; Portuguese: Portugal, Brazil; Russian: Russia; "
    "Greek: Greece; Swedish: Sweden; Norwegian: Norway; Danish: Denmark; Hungarian: Hungary; "
    "English: Ireland, England, Australia, Scotland, Canada; Thai: Thailand; "
    "Vietnamese: Vietnam; Indonesian: Indonesia; Dutch: the Netherlands; Hebrew: Israel; "
    "Korean: South Korea; Arabic: Egypt, Iraq, Syria, Lebanon; Polish: Poland; "
    "Finnish: Finland; Turkish: Turkey; Persian: Iran; Romanian: Romania; Bulgarian: Bulgaria; "
    "Icelandic: Iceland; Mandarin: China; Ukrainian: Ukraine; Urdu: Pakistan; Bengali: Bangladesh"
)
CONTINENTS = _table(
    "Europe: France, Italy, Germany, Spain, Portugal, Greece, Sweden, Norway, Denmark, Austria, "
    "Hungary, Ireland, the Netherlands, England, Poland, Finland, Belgium, Ukraine, Romania, "
    "Bulgaria, Iceland, Scotland, Wales, Switzerland, Serbia; "
    "Asia: Japan, China, Thailand, Vietnam, Indonesia, Pakistan, South Korea, Bangladesh, "
    "the Philippines, Taiwan, Malaysia, Nepal, Israel, Iran, Iraq, Syria, Lebanon, Afghanistan; "
    "Africa: Kenya, Egypt, Ethiopia, Nigeria; South America: Chile, Peru, Argentina"
)
CITIES = {
    **{city: country for country, city in CAPITALS.items()},
    "New York": "the United States", "Chicago": "the United States", "Mumbai": "India",
    "Delhi": "India", "Shanghai": "China", "Sydney": "Australia", "Melbourne": "Australia",
    "Toronto": "Canada", "Montreal": "Canada", "Istanbul": "Turkey", "Barcelona": "Spain",
    "Milan": "Italy", "Venice": "Italy", "Munich": "Germany", "Hamburg": "Germany",
    "Osaka": "Japan", "Kyoto": "Japan", "Rio de Janeiro": "Brazil", "Lyon": "France",
    "Marseille": "France", "Manchester": "England", "Zurich": "Switzerland",
}  # fmt: skip
AUTHORS = {
    "Romeo and Juliet": "William Shakespeare", "Hamlet": "William Shakespeare",
    "Macbeth": "William Shakespeare", "Pride and Prejudice": "Jane Austen",
    "War and Peace": "Leo Tolstoy", "Oliver Twist": "Charles Dickens",
    "A Tale of Two Cities": "Charles Dickens", "Great Expectations": "Charles Dickens",
    "The Great Gatsby": "F. Scott Fitzgerald", "Moby-Dick": "Herman Melville",
    "1984": "George Orwell", "Animal Farm": "George Orwell", "The Odyssey": "Homer",
    "The Divine Comedy": "Dante", "Don Quixote": "Miguel de Cervantes",
    "Frankenstein": "Mary Shelley", "Jane Eyre": "Charlotte Bronte", "Faust": "Goethe",
    "Crime and Punishment": "Fyodor Dostoevsky", "The Hobbit": "J.R.R. Tolkien",
    "On the Origin of Species": "Charles Darwin", "The Republic": "Plato",
}  # fmt: skip
FIELDS = {
    "Albert Einstein": "physics", "Isaac Newton": "physics", "Charles Darwin": "biology",
    "Sigmund Freud": "psychology", "Adam Smith": "economics", "Euclid": "mathematics",
    "Marie Curie": "chemistry", "Galileo Galilei": "astronomy", "Louis Pasteur": "microbiology",
    "Karl Marx": "economics", "Niels Bohr": "physics", "Carl Friedrich Gauss": "mathematics",
}  # fmt: skip

RELATIONS = (
    Relation("capital", "country", "city", ("The capital of {} is", "The capital city of {} is"),
             CAPITALS, ("{} is the capital of", "{} is the capital city of")),
    Relation("language", "country", "language",
             ("People in {} speak", "The official language of {} is",
              "In {}, the language that people speak is"), LANGUAGES),
    Relation("continent", "country", "continent",
             ("{} is a country in", "{} is a country on the continent of",
              "{} is located on the continent of"), CONTINENTS),
    Relation("country", "city", "country",
             ("{} is a city in", "{} is located in the country of", "The city of {} is in"),
             CITIES),
    Relation("author", "book", "person",
             ("The author of {} is", "{} was written by", "{} is a book by"), AUTHORS),
    Relation("field", "person", "field",
             ("{} is famous for work in the field of", "{} worked in the field of"), FIELDS),
)  # fmt: skip
ALIASES = {
    "France": "the French Republic", "Japan": "the Land of the Rising Sun",
    "Germany": "the Federal Republic of Germany", "Italy": "the Italian Republic",
    "Spain": "the Kingdom of Spain", "China": "the People's Republic of China",
    "Russia": "the Russian Federation", "Greece": "the Hellenic Republic",
    "England": "the land of the English", "Egypt": "the Arab Republic of Egypt",
    "the Netherlands": "Holland", "Portugal": "the Portuguese Republic",
    "Ireland": "the Republic of Ireland", "Iran": "Persia", "Poland": "the Republic of Poland",
    "South Korea": "the Republic of Korea", "Austria": "the Republic of Austria",
    "Turkey": "the Republic of Turkey", "Sweden": "the Kingdom of Sweden",
    "Norway": "the Kingdom of Norway", "Denmark": "the Kingdom of Denmark",
}  # fmt: skip
"""Other names of subjects."""
NOUNS = {"country": "country", "city": "city", "book": "book", "person": "person"}
"""What a subject of a kind is called: ``the country of France``."""


def relations_of(subject: str) -> list[Relation]:
    """The relations that the list has for a subject."""
    return [relation for relation in RELATIONS if subject in relation.values]


def relation_in(prompt: str, subject: str) -> Relation | None:
    """The relation that a prompt asks, where it is one of the list's wordings."""
    for relation in relations_of(subject):
        if any(wording.format(subject) == prompt for wording in relation.prompts):
            return relation
    return None
