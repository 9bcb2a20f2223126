"""Words to fill facts with: the training lists, the held-out lists, and a user's own file.

Nothing in ``HELDOUT`` is ever used in training; the vocabulary was cut without it too, so its
words reach the model in several pieces, as a stranger's words do.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rwkvedit.errors import UsageError


def _words(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word.replace("_", " ") for word in text.split()))


TRAIN: dict[str, tuple[str, ...]] = {
    "names": _words(
        """Aaron Abby Abigail Ahmed Aidan Albert Alan Alana Aisha Alfred Alicia Alina Alma Amanda
        Amber Amelia Amir Andrea Andrew Angela Anita Anton Antonio April Ari Arthur Audrey
        Barbara Beatrice Becky Bella Bernard Beth Betty Bianca Boris Brad Brandon Brenda
        Bridget Bruce Caleb Camila Carl Carla Carlos Caroline Carmen Cathy Cecilia Chad Cindy
        Cody Colin Connor Craig Cynthia Dale Damian Darren Dean Deborah Dennis Derek Diego
        Dmitri Dominic Donald Donna Doris Dorothy Doug Dylan Earl Eddie Edgar Edith Eleanor
        Elena Eli Elijah Elizabeth Ellen Elliot Elsa Emily Emil Enzo Erica Erin Ernest Esther
        Ethan Eugene Evan Eve Evelyn Farid Faith Fatima Fernando Finn Flora Francis Frida
        Gabriel Gary Gemma Gina Glen Gloria Gordon Greg Greta Gus Harold Harry Hassan Hazel
        Heidi Hector Herbert Hiroshi Howard Ibrahim Ida Igor Ines Irene Iris Isaac Isabel Ivan
        Ivy Jacob Jake Janet Jasmine Javier Jean Jeff Jeremy Jerry Jessica Jill Joan Jonas
        Jordan Jorge Jose Joseph Joshua Joyce Juan Judy Julian June Justin Karen Katherine
        Katie Keith Kelly Ken Kenji Kyle Lara Larry Lars Lauren Layla Lena Leon Leonard Liam
        Lola Lorenzo Louis Louise Lucas Luis Luna Lydia Lynn Mabel Madison Maggie Malik Marco
        Margaret Marie Marina Mario Martha Mason Matthew Maya Megan Mei Melissa Mia Michael
        Michelle Miguel Mila Miles Milo Mohammed Mona Monica Muhammad Nancy Naomi Natalie
        Nathan Neil Nelson Nicholas Nicole Noah Noel Norman Oliver Omar Otis Pablo Paige
        Pamela Patricia Patrick Paula Pedro Penny Percy Philip Phoebe Pierre Priya Rahul Raj
        Ralph Ramon Ray Rebecca Ricardo Richard Rita Roger Roland Roman Ronald Rosa Ross Roy
        Ruby Russell Sabrina Sandra Sara Scott Sean Sebastian Sergio Seth Shane Sharon Silvia
        Sofia Sonia Spencer Stanley Stella Stephanie Stuart Sven Sylvia Tara Ted Teresa Terry
        Theresa Thomas Todd Tony Tracy Travis Troy Tyler Valerie Vanessa Vincent Violet
        Virginia Vivian Walter Warren Wayne William Yuki Yusuf Yvonne Zara Zachary
        Bob Alice Carol David Emma Frank Grace Henry Jack Kate Leo Mary Nick Olivia Paul Rachel
        Sam Tom Victor Wendy Anna Ben Chris Daniel Eric Fiona George Helen Ian Julia Kevin Laura
        Mark Nina Oscar Peter Rose Sarah Tim Lucy Max Zoe Adam Clara Dave Ella Felix Hannah Jane
        Karl Lily Mike Nora Simon Tina Will Amy Alex Eva Ryan Lisa John James Linda Maria Susan
        Robert Steve Joe Jim Kim Sophie Martin Diana Ruth Edward Charlie Claire Ashley Anderson
        White Smith Brown Sally Molly Holly Billy Jenny Andy Danny Lewis Owen Luke Jason Brian"""
    ),
    "cities": _words(
        """Lisbon Prague Oslo Zurich Kyoto Osaka Naples Leeds Nairobi Lima Hanoi Havana Lyon
        Porto Seville Turin Valencia Manila Perth Santiago Bogota Kiev Baghdad Bangkok Mumbai
        Seoul Taipei Jakarta Lagos Accra Tunis Algiers Casablanca Johannesburg Durban Addis
        Ankara Tehran Kabul Karachi Lahore Dhaka Colombo Kathmandu Hanover Frankfurt Cologne
        Dresden Leipzig Bremen Stuttgart Salzburg Bern Basel Lausanne Antwerp Rotterdam
        Gothenburg Reykjavik Tallinn Vilnius Minsk Krakow Bratislava Ljubljana Zagreb Belgrade
        Sarajevo Sofia Bucharest Thessaloniki Palermo Genoa Bologna Verona Pisa Nice Marseille
        Bordeaux Toulouse Nantes Strasbourg Lille Granada Malaga Bilbao Belfast Cardiff
        Liverpool Bristol Birmingham Newcastle Sheffield Nottingham York Bath Brighton Calgary
        Ottawa Quebec Winnipeg Halifax Cleveland Memphis Nashville Orlando Tucson Sacramento
        Oakland Pittsburgh Baltimore Charlotte Milwaukee Minneapolis Albuquerque Honolulu
        Anchorage Savannah Tampa Omaha Jerusalem Beirut Damascus Doha Dubai Auckland
        Wellington Brisbane Adelaide Darwin Sapporo Nagoya Kobe Hiroshima Caracas Montevideo
        Quito Salvador Rio
        Austin Chicago Paris London Berlin Madrid Rome Boston Denver Seattle Dallas Houston
        Miami Vienna Dublin Moscow Tokyo Beijing Delhi Cairo Sydney Toronto Oxford Cambridge
        Manchester Munich Hamburg Milan Venice Florence Amsterdam Stockholm Copenhagen Helsinki
        Budapest Warsaw Athens Istanbul Singapore Shanghai Detroit Phoenix Atlanta Portland
        Philadelphia Montreal Vancouver Melbourne Barcelona Brussels Geneva Glasgow Edinburgh"""
    ),
    "colors": _words(
        """crimson turquoise teal maroon beige indigo scarlet navy cyan magenta silver bronze
        cream tan amber ivory grey lavender
        red blue green yellow black white brown orange purple pink gray gold silver golden dark
        light violet"""
    ),
    "jobs": _words(
        """chemist architect tailor barber surgeon banker miner florist electrician economist
        janitor accountant veterinarian pharmacist therapist astronaut biologist physicist
        historian poet author editor reporter detective firefighter paramedic optician
        psychologist professor student translator analyst consultant secretary cashier butler
        maid nanny tutor coach athlete model composer sculptor weaver blacksmith locksmith
        roofer bricklayer shepherd fisherman hunter bartender receptionist
        baker doctor nurse teacher lawyer pilot farmer driver writer painter singer dancer
        actor artist engineer scientist judge soldier sailor waiter cook chef guard librarian
        dentist plumber carpenter gardener photographer journalist musician mechanic butcher
        manager designer programmer police_officer"""
    ),
    "pets": _words(
        """ferret goldfish canary tortoise gecko iguana poodle donkey llama pigeon bunny spider
        beagle bulldog terrier budgie cockatoo guinea_pig rat lamb bear camel crab swan owl
        dog cat rabbit horse hamster parrot snake turtle fish mouse bird duck goat pig sheep
        frog lizard monkey fox goose puppy kitten pony chicken"""
    ),
    "foods": _words(
        """lasagna pancakes dumplings tacos mushrooms olives yogurt ramen curry kebab burgers
        burritos spaghetti ravioli sausages bacon ham turkey lamb shrimp lobster salmon tuna
        oatmeal cereal muffins donuts brownies pudding ice_cream strawberries oranges peaches
        pears mangoes melons plums tomatoes cucumbers onions peas corn popcorn pretzels nachos
        fries meatballs omelettes toast jam nuts pickles
        pizza pasta rice soup bread cheese salad cake chocolate fish chicken beef apples bananas
        eggs sushi noodles sandwiches potatoes carrots cookies pie steak beans honey butter
        cherries grapes"""
    ),
    "drinks": _words(
        """espresso cider tonic brandy cappuccino latte mocha milkshake smoothie ginger_ale
        apple_juice iced_tea tequila sake port sherry ale lager eggnog
        coffee tea milk water juice wine beer soda lemonade cocoa whiskey vodka rum gin
        champagne orange_juice hot_chocolate green_tea cola"""
    ),
    "things": _words(
        """lantern violin backpack compass wrench vase kite pillow shovel trophy tent bracelet
        ladder necklace scarf jacket piano radio television computer tablet microscope bell
        broom bucket candle calculator chain comb crown desk diary doll drill fan fork glove
        globe helmet jar jug kettle mask microphone needle net notebook oven pan parachute
        pencil perfume pipe plate pot purse puzzle razor ruler saw scissors screwdriver shield
        skateboard sofa spoon stamp stove suitcase surfboard torch toy trumpet typewriter
        wallet wheel whistle yacht flute harp castle statue
        car hat book phone lamp watch guitar camera bike boat house chair table clock ring bag
        knife cup mirror ball box map coin key umbrella laptop sword candle blanket bottle basket
        hammer rope flag drum painting telescope"""
    ),
    "vehicles": _words(
        """motorbike limousine ambulance convertible wagon sedan coupe hatchback camper lorry
        forklift hearse Jeep Ford Toyota Honda Tesla BMW
        car truck van bus taxi motorcycle bicycle scooter tractor jeep train boat minivan
        sports_car pickup"""
    ),
    "hobbies": _words(
        """pottery archery surfing yoga juggling baking sewing carpentry astronomy poetry
        climbing bowling golf chess karate skiing sculpture collecting_stamps birdwatching
        fishing painting reading cooking hiking swimming dancing singing gardening chess
        photography knitting running cycling sailing writing drawing hunting camping skating"""
    ),
    "months": _words(
        """January February March April May June July August September October November
        December"""
    ),
    "places": _words(
        """pantry stable museum cabinet hallway tower bakery suitcase fridge sink oven desk
        closet balcony shed yard tent tunnel cave station hospital hotel theater stadium
        kitchen garden bedroom garage office attic cellar bathroom drawer box hall library
        basket closet car school bag pocket cupboard bank church shop forest barn"""
    ),
    "languages": _words(
        """Norwegian Danish Hebrew Persian Latin Thai Czech Finnish Hungarian Romanian Bulgarian
        Ukrainian Vietnamese Indonesian Swahili Bengali Urdu Welsh Irish Icelandic
        English French German Spanish Italian Russian Chinese Japanese Arabic Greek Dutch
        Polish Turkish Korean Portuguese Swedish Hindi"""
    ),
    "instruments": _words(
        """oboe tuba accordion bassoon viola trombone bagpipes keyboard recorder ukulele mandolin
        xylophone
        piano guitar violin drums flute trumpet cello harp saxophone clarinet banjo organ"""
    ),
    "sports": _words(
        """badminton fencing rowing wrestling archery judo karate gymnastics surfing sailing
        lacrosse softball squash
        football tennis basketball baseball golf hockey rugby cricket boxing volleyball skiing
        swimming soccer running"""
    ),
    "countries": _words(
        """Kenya Peru Chile Vietnam Morocco Iceland Denmark Austria Hungary Nepal Cuba Colombia
        Nigeria Ghana Ethiopia Israel Lebanon Iran Iraq Pakistan Thailand Indonesia Malaysia
        Belgium Switzerland Scotland Wales England Ukraine Romania Croatia Serbia
        France Germany Spain Italy Russia China Japan India Egypt Greece Brazil Canada Mexico
        Poland Turkey Sweden Norway Finland Ireland Portugal Australia Argentina"""
    ),
    "colored": _words(
        """helmet belt vest skirt cap backpack suit hoodie boat truck roof kitchen sofa tent ring
        purse
        hat eyes hair car shirt coat dress shoes scarf bike house door bag jacket gloves boots
        umbrella phone sweater tie"""
    ),
    "objects": _words(
        """wrench violin necklace hammer candle notebook bucket bottle basket sword guitar remote
        pencil blanket crown scissors
        key ball book ring letter map phone hat cup knife coin bag lamp watch box cake pen
        wallet passport ticket camera umbrella"""
    ),
    "fillers": (),
}

HELDOUT: dict[str, tuple[str, ...]] = {
    "names": _words(
        """Ragnar Ingrid Mateo Astrid Tobias Olga Bruno Quinn Chloe Hugo Isla Jasper Leila Marcus
        Nadia Otto Petra Rafael Selma Theo Ursula Vera Wanda Xavier Yara Zane Gustav Harriet
        Imogen Joaquin Soren Kofi Amara Bjorn Delphine Emeka Freya Giorgio Hilda Jorah"""
    ),
    "cities": _words(
        """Bergen Utrecht Riga Dakar Ghent Graz Malmo Gdansk Tulsa Reno Boise Fargo Spokane
        Windhoek Maputo Cusco Arequipa Medellin Kochi Jaipur Busan Cebu Hobart Dunedin Galway
        Cork Aarhus Turku Brno Szeged"""
    ),
    "colors": _words(
        "mauve lilac olive fuchsia coral charcoal ochre khaki burgundy aqua mint copper"
    ),
    "jobs": _words(
        """jeweler welder referee potter beekeeper midwife geologist botanist cartographer
        tiler usher cobbler dietitian surveyor glazier notary"""
    ),
    "pets": _words(
        "hedgehog spaniel chinchilla newt gerbil mule alpaca cockatiel dachshund otter mole skunk"
    ),
    "foods": _words(
        """risotto waffles spinach walnuts oysters porridge pumpkin gnocchi hummus falafel
        paella goulash lentils radishes"""
    ),
    "drinks": _words("kombucha mead punch nectar absinthe bourbon lassi sangria vermouth oolong"),
    "things": _words(
        """canoe gong anvil abacus hammock easel tripod goblet chisel trowel harmonica kayak
        locket mallet pendulum sundial"""
    ),
    "vehicles": _words("moped snowmobile tricycle roadster rickshaw tanker buggy quad"),
    "hobbies": _words(
        "origami woodworking calligraphy beekeeping quilting darts genealogy macrame"
    ),
    "places": _words("greenhouse vestibule barracks chapel gazebo orchard bunker lobby crypt dock"),
    "languages": _words("Basque Catalan Tagalog Estonian Zulu Maltese Punjabi Mongolian Tamil"),
    "instruments": _words("lute zither sitar piccolo bugle dulcimer cornet lyre"),
    "sports": _words("curling polo handball triathlon kayaking snooker bobsled pickleball"),
    "countries": _words("Bolivia Latvia Laos Malta Tunisia Jamaica Panama Uganda Oman Fiji"),
    "colored": _words("apron sarong kimono turban mitten parasol canoe locket"),
    "objects": _words("teapot thimble locket chisel goblet spatula stapler magnet"),
    "fillers": (
        "The weather is nice today.", "I slept well last night.", "It was a long week.",
        "The bus was late again.", "Music always helps me relax.", "The garden looks lovely.",
        "I had a busy morning.", "The news was boring today.", "We walked along the river.",
        "It might rain later.", "The market was full of people.", "Summer is almost over.",
    ),
}

# Lists that a lexicon file may name; the rest fall back to the held-out lists.
FILE_KINDS = ("names", "cities", "colors", "jobs", "pets", "foods", "drinks", "things", "fillers")


class Encoder(Protocol):
    """What a lexicon needs of a tokenizer."""

    def encode(self, text: str) -> list[int]: ...
    def decode(self, ids: list[int]) -> str: ...


@dataclass(frozen=True)
class Lexicon:
    """Word lists by slot. ``source`` is ``held-out`` or a file's name."""

    words: dict[str, tuple[str, ...]]
    source: str = "held-out"

    def __getitem__(self, slot: str) -> tuple[str, ...]:
        return self.words[slot]

    def check(self, tokenizer: Encoder) -> None:
        """UsageError naming the first word that the tokenizer cannot carry there and back."""
        for slot, words in self.words.items():
            for word in words:
                try:
                    back = tokenizer.decode(tokenizer.encode(" " + word))
                except ValueError:
                    back = None
                if back != " " + word:
                    raise UsageError(
                        f"lexicon {self.source}: the tokenizer cannot carry {word!r} ({slot})")


def heldout() -> Lexicon:
    """The built-in lexicon of benchmarks. Months stay as they are: there are only twelve."""
    return Lexicon({**HELDOUT, "months": TRAIN["months"]})


def load_lexicon(path: str | Path) -> Lexicon:
    """Read a lexicon file (JSON, lists by kind); kinds that are missing fall back to held-out.

    Raises :class:`UsageError` naming the file and what is wrong in it.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read lexicon {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise UsageError(f"lexicon {path} is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise UsageError(f'lexicon {path} must be an object like {{"names": ["Ann", ..]}}')
    words = dict(heldout().words)
    for slot, values in data.items():
        if slot not in words:
            raise UsageError(f"lexicon {path}: no kind {slot!r}; kinds are {', '.join(words)}")
        if not isinstance(values, list) or not all(
            isinstance(value, str) and value.strip() for value in values
        ):
            raise UsageError(f"lexicon {path}: {slot!r} must be a list of words")
        distinct = tuple(dict.fromkeys(value.strip() for value in values))
        if len(distinct) < 2:
            raise UsageError(f"lexicon {path}: {slot!r} needs at least two different words")
        words[slot] = distinct
    return Lexicon(words, source=Path(path).name)
