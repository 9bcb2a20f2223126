"""Every kind of fact, and every way it is said and asked. Data alone: the marks are in ``kinds``.

The training corpus, the benchmark worlds and the chat's parser all read this one table, so a
phrasing is written once. The last two blocks of a kind are held out: no training text has them.
"""

from __future__ import annotations

from rwkvedit.facts.kinds import Kind


def _kind(name: str, slot: str, answer: str, unknown: str, yes_no: str, tells: str, asks: str,
          tells_heldout: str, asks_heldout: str, changes: str = "", **more) -> Kind:
    def rows(text: str) -> tuple[str, ...]:
        return tuple(line.strip() for line in text.strip().splitlines() if line.strip())

    return Kind(name, slot, answer, unknown, rows(tells), rows(asks), rows(tells_heldout),
                rows(asks_heldout), yes_no, rows(changes), **more)


_ALL = (
    _kind(
        "city", "cities", "{E} [lives|live] in {v}.", "where {E} [lives|live].",
        "[Does|Do] {E} live in {v}?",
        """{E} [lives|live] in {v}.
        {E} currently [lives|live] in {v}.
        {E's} home is in {v}.
        {E} [has|have] a house in {v}.
        {E} [is|am|are] living in {v}.
        {E} [lives|live] in the city of {v}.
        {v} is where {E} [lives|live].
        {E's} city is {v}.
        {E} [has|have] a flat in {v}.
        These days {E} [lives|live] in {v}.
        {E} settled in {v}.
        {E} [stays|stay] in {v}.
        You will find {E} in {v}.
        {E} [rents|rent] a place in {v}.
        The city where {E} [lives|live] is {v}.
        {E} [is|am|are] based in {v}.
        {v} is home for {E}.""",
        """Where [does|do] {E} live?
        What city [does|do] {E} live in?
        In which city [does|do] {E} live?
        Where is {E's} home?
        Where [is|am|are] {E} living?
        Which city is {E's} home in?
        Do you know where {E} [lives|live]?
        Tell me where {E} [lives|live].
        Which city is home for {E}?
        What is {E's} city?
        Where [has|have] {E} settled?
        Where would I find {E}?
        What town [does|do] {E} live in?
        Which town is home to {E}?
        Which place is home for {E}?""",
        """Right now {E} [lives|live] in {v}.
        {E} [has|have] a home in {v}.""",
        """Which city [does|do] {E} live in?
        Where [does|do] {E} currently live?""",
        """{E} moved to {v}.
        {E} now [lives|live] in {v}.""",
    ),
    _kind(
        "job", "jobs", "{E} [works|work] as {a v}.", "what {E} [does|do] for work.",
        "[Does|Do] {E} work as {a v}?",
        """{E} [works|work] as {a v}.
        {E} [is|am|are] {a v}.
        {E} [has|have] a job as {a v}.
        {E's} job is to be {a v}.
        {E} [is|am|are] working as {a v}.
        {E} [is|am|are] {a v} by trade.
        {E} currently [works|work] as {a v}.
        By profession {E} [is|am|are] {a v}.
        {E} [earns|earn] a living as {a v}.
        {E} [makes|make] a living as {a v}.
        {E} [is|am|are] employed as {a v}.
        {E} [spends|spend] the day working as {a v}.
        The job {E} [has|have] is {a v}.
        People know {E} as {a v}.
        {E} trained as {a v}.""",
        """What [does|do] {E} do for work?
        What is {E's} job?
        What [does|do] {E} do for a living?
        What [does|do] {E} work as?
        What work [does|do] {E} do?
        What is {E's} profession?
        Do you know what {E's} job is?
        What kind of work [does|do] {E} do?
        What [is|am|are] {E} employed as?
        How [does|do] {E} earn a living?
        Which job [does|do] {E} have?""",
        """By trade {E} [is|am|are] {a v}.
        These days {E} [works|work] as {a v}.""",
        """What [is|am|are] {E} by profession?
        Do you know what {E} [does|do] for work?""",
        """{E} now [works|work] as {a v}.
        {E} became {a v}.""",
    ),
    _kind(
        "pet", "pets", "{E} [has|have] a pet {v}.", "what pet {E} [has|have].",
        "[Does|Do] {E} have a pet {v}?",
        """{E} [has|have] a pet {v}.
        {E's} pet is {a v}.
        {E} [keeps|keep] a pet {v}.
        {E} [has|have] {a v} as a pet.
        {E} [keeps|keep] {a v} as a pet.
        {E} [owns|own] a pet {v}.
        The pet that {E} [has|have] is {a v}.
        {E} [lives|live] with a pet {v}.
        {E} adopted {a v}.
        {E} [takes|take] care of a pet {v}.
        {E} [feeds|feed] a pet {v} every morning.
        There is a pet {v} in {E's} house.
        {E} got a pet {v}.""",
        """What pet [does|do] {E} have?
        What is {E's} pet?
        Which pet [does|do] {E} have?
        What kind of pet [does|do] {E} have?
        What pet [does|do] {E} keep?
        Do you know what pet {E} [has|have]?
        What kind of animal [does|do] {E} keep?
        Which animal is {E's} pet?
        What pet [lives|live] with {E}?
        What pet [does|do] {E} own?""",
        """{E} [owns|own] {a v} as a pet.
        At home {E} [has|have] a pet {v}.""",
        """Which pet [does|do] {E} keep?
        What animal [does|do] {E} have as a pet?""",
        """{E} now [has|have] a pet {v}.""",
    ),
    _kind(
        "drink", "drinks", "{E's} favorite drink is {v}.", "what {E's} favorite drink is.",
        "Is {E's} favorite drink {v}?",
        """{E's} favorite drink is {v}.
        {E} [likes|like] to drink {v}.
        {E} [loves|love] drinking {v}.
        {E} always [drinks|drink] {v}.
        {E} [drinks|drink] {v} every day.
        The drink {E} [likes|like] best is {v}.
        {E} [drinks|drink] {v}.
        {v} is {E's} favorite drink.
        {E} [prefers|prefer] {v} to any other drink.
        {E} [orders|order] {v} every time.
        {E} [enjoys|enjoy] a glass of {v}.
        What {E} [drinks|drink] is {v}.
        {E} never [says|say] no to {v}.""",
        """What is {E's} favorite drink?
        What [does|do] {E} like to drink?
        What [does|do] {E} drink?
        Which drink [does|do] {E} like best?
        What drink [does|do] {E} love?
        Do you know what {E} [drinks|drink]?
        What drink [does|do] {E} order?
        What [does|do] {E} prefer to drink?
        Which drink [does|do] {E} enjoy?""",
        """{E} [likes|like] drinking {v}.
        Every day {E} [drinks|drink] {v}.""",
        """Which drink is {E's} favorite?
        What [does|do] {E} always drink?""",
        """{E} now [drinks|drink] {v}.""",
    ),
    _kind(
        "food", "foods", "{E's} favorite food is {v}.", "what {E's} favorite food is.",
        "Is {E's} favorite food {v}?",
        """{E's} favorite food is {v}.
        {E} [likes|like] to eat {v}.
        {E} [loves|love] eating {v}.
        {E} always [eats|eat] {v}.
        {E} [eats|eat] {v} every day.
        The food {E} [likes|like] best is {v}.
        {E} [eats|eat] {v}.
        {v} is {E's} favorite food.
        {E} [prefers|prefer] {v} to any other food.
        {E} [orders|order] {v} for dinner every time.
        {E} [enjoys|enjoy] a plate of {v}.
        What {E} [eats|eat] is {v}.
        {E} [has|have] {v} for lunch.""",
        """What is {E's} favorite food?
        What [does|do] {E} like to eat?
        What [does|do] {E} eat?
        Which food [does|do] {E} like best?
        What food [does|do] {E} love?
        Do you know what {E} [eats|eat]?
        What food [does|do] {E} order?
        What [does|do] {E} prefer to eat?
        Which food [does|do] {E} enjoy?""",
        """{E} [likes|like] eating {v}.
        Every day {E} [eats|eat] {v}.""",
        """Which food is {E's} favorite?
        What [does|do] {E} always eat?""",
        """{E} now [eats|eat] {v}.""",
    ),
    _kind(
        "color", "colors", "{E's} {t} {is t} {v}.", "what color {E's} {t} {is t}.",
        "{Is t} {E's} {t} {v}?",
        """{E's} {t} {is t} {v}.
        {E} [has|have] {a v+t}.
        {E's} {t} {is t} colored {v}.
        The color of {E's} {t} is {v}.
        {E} [owns|own] {a v+t}.
        {v} is the color of {E's} {t}.
        {E} [has|have] {a t} that {is t} {v}.
        {E} [wears|wear] {a v+t}.
        {E} bought {a v+t}.
        {E's} {t} always {is t} {v}.
        {E} put on {a v+t}.
        {E} [is|am|are] known for {a v+t}.
        People notice {E's} {v} {t}.
        The {t} {E} [has|have] {is t} {v}.
        {E} chose {a v+t}.
        {E} [is|am|are] dressed in {a v+t}.
        {E} showed me {a v+t}.
        {E's} {t} came in {v}.
        For {E} the color of the {t} is {v}.""",
        """What color {is t} {E's} {t}?
        What is the color of {E's} {t}?
        Which color {is t} {E's} {t}?
        What color of {t} [does|do] {E} have?
        Do you know what color {E's} {t} {is t}?
        What color of {t} did {E} buy?
        How [does|do] {E's} {t} look?
        What color {is t} the {t} of {E}?""",
        """The color that {E's} {t} {has t} is {v}.
        {E} [is|am|are] wearing {a v+t}.""",
        """What color [does|do] {E's} {t} have?
        Tell me what color {E's} {t} {is t}.""",
        """{E's} {t} {is t} now {v}.""",
        has_thing=True,
    ),
    _kind(
        "age", "ages", "{E} [is|am|are] {v} years old.", "how old {E} [is|am|are].",
        "[Is|Am|Are] {E} {v} years old?",
        """{E} [is|am|are] {v} years old.
        {E} [is|am|are] {v}.
        {E's} age is {v}.
        {E} turned {v} this year.
        {E} [is|am|are] now {v} years old.
        {E} just turned {v}.
        {E} [is|am|are] {v} years of age.
        This year {E} turned {v}.
        {E} will be {v} until next year.
        {E} [has|have] lived for {v} years.
        {E} [celebrates|celebrate] turning {v}.
        At {v} years old {E} [is|am|are] happy.""",
        """How old [is|am|are] {E}?
        What is {E's} age?
        What age [is|am|are] {E}?
        How many years old [is|am|are] {E}?
        Do you know how old {E} [is|am|are]?
        How many years [has|have] {E} lived?
        Which age [is|am|are] {E}?""",
        """{E} [is|am|are] currently {v} years old.
        {E} just turned {v} years old.""",
        """Tell me how old {E} [is|am|are].
        Do you know {E's} age?""",
    ),
    _kind(
        "vehicle", "vehicles", "{E} [drives|drive] {a v}.", "what {E} [drives|drive].",
        "[Does|Do] {E} drive {a v}?",
        """{E} [drives|drive] {a v}.
        {E} [drives|drive] {a v} to work.
        {E} always [drives|drive] {a v}.
        {E's} vehicle is {a v}.
        {E} [gets|get] around in {a v}.
        {E} [drives|drive] {a v} every day.
        The vehicle {E} [drives|drive] is {a v}.
        {E} [is|am|are] driving {a v}.
        {E} [owns|own] {a v} to drive.
        {E} [travels|travel] by {v}.
        {E} [takes|take] {a v} to town.
        You will see {E} in {a v}.
        {E} parked {a v} outside.""",
        """What [does|do] {E} drive?
        What vehicle [does|do] {E} drive?
        What is {E's} vehicle?
        Which vehicle [does|do] {E} drive?
        Do you know what {E} [drives|drive]?
        What [does|do] {E} take to town?
        What [does|do] {E} get around in?
        What [does|do] {E} travel by?""",
        """Every day {E} [drives|drive] {a v}.
        To get anywhere {E} [drives|drive] {a v}.""",
        """What kind of vehicle [does|do] {E} drive?
        Tell me what {E} [drives|drive].""",
        """{E} now [drives|drive] {a v}.""",
    ),
    _kind(
        "hobby", "hobbies", "{E's} hobby is {v}.", "what {E's} hobby is.",
        "Is {E's} hobby {v}?",
        """{E's} hobby is {v}.
        {E} [enjoys|enjoy] {v}.
        {E} [spends|spend] weekends on {v}.
        {E} [has|have] a hobby: {v}.
        In free time {E} [enjoys|enjoy] {v}.
        {E's} favorite hobby is {v}.
        The hobby {E} [likes|like] best is {v}.
        {v} is {E's} hobby.
        {E} [relaxes|relax] with {v}.
        {E} [likes|like] {v} a lot.
        {E} [is|am|are] fond of {v}.
        When there is time, {E} [does|do] some {v}.
        {E} [fills|fill] the evenings with {v}.""",
        """What is {E's} hobby?
        What hobby [does|do] {E} have?
        What [does|do] {E} enjoy?
        What [does|do] {E} do in free time?
        Do you know {E's} hobby?
        What [is|am|are] {E} fond of?
        How [does|do] {E} relax?
        What [does|do] {E} like to do?""",
        """On weekends {E} [enjoys|enjoy] {v}.
        The hobby {E} [has|have] is {v}.""",
        """Which hobby [does|do] {E} have?
        What is {E's} favorite hobby?""",
    ),
    *(
        _kind(
            rel, "names", f"{{E's}} {rel} is {{v}}.", f"who {{E's}} {rel} is.",
            f"Is {{E's}} {rel} {{v}}?",
            f"""{{E's}} {rel} is {{v}}.
            {{E's}} {rel} is called {{v}}.
            {{E}} [has|have] a {rel} called {{v}}.
            {{E's}} {rel} is named {{v}}.
            {{E}} [has|have] a {rel} named {{v}}.
            The name of {{E's}} {rel} is {{v}}.
            {{v}} is {{E's}} {rel}.
            {{v}} is the name of {{E's}} {rel}.
            {{E's}} {rel} goes by {{v}}.
            People call {{E's}} {rel} {{v}}.
            {{E's}} {rel} is known as {{v}}.
            {{E}} [calls|call] the {rel} {{v}}.
            {{v}} is what {{E's}} {rel} is called.
            The {rel} of {{E}} is {{v}}.""",
            f"""Who is {{E's}} {rel}?
            What is {{E's}} {rel} called?
            What is the name of {{E's}} {rel}?
            What is {{E's}} {rel}'s name?
            Do you know who {{E's}} {rel} is?
            What do people call {{E's}} {rel}?
            Who is the {rel} of {{E}}?
            What does {{E's}} {rel} go by?""",
            f"""{{E}} [has|have] a {rel} and the name is {{v}}.
            {{E's}} {rel} has the name {{v}}.""",
            f"""Tell me who {{E's}} {rel} is.
            Do you know the name of {{E's}} {rel}?""",
        )
        for rel in ("sister", "brother", "friend", "boss")
    ),
    _kind(
        "birthday", "months", "{E's} birthday is in {v}.", "when {E's} birthday is.",
        "Is {E's} birthday in {v}?",
        """{E's} birthday is in {v}.
        {E} was born in {v}.
        {E} [has|have] a birthday in {v}.
        The birthday of {E} is in {v}.
        {E's} birthday comes in {v}.
        {E's} birth month is {v}.
        {v} is {E's} birth month.
        Every {v} {E} [has|have] a birthday.
        {E} [celebrates|celebrate] in {v}.
        {E} [gets|get] a year older in {v}.
        In {v} {E} [has|have] a birthday.
        {E} [has|have] a birthday party in {v}.""",
        """When is {E's} birthday?
        In which month is {E's} birthday?
        What month is {E's} birthday in?
        When was {E} born?
        Do you know when {E's} birthday is?
        Which month is {E's} birthday in?
        When [does|do] {E} have a birthday?
        What is {E's} birth month?""",
        """Each year {E} [has|have] a birthday in {v}.
        The month of {E's} birthday is {v}.""",
        """In what month is {E's} birthday?
        Tell me when {E's} birthday is.""",
    ),
    _kind(
        "place", "places", "{E} is in the {v}.", "where {E} is.",
        "Is {E} in the {v}?",
        """{E} is in the {v}.
        {E} was left in the {v}.
        You can find {E} in the {v}.
        Someone put {E} in the {v}.
        {E} is kept in the {v}.
        I put {E} in the {v}.
        I left {E} in the {v}.
        I saw {E} in the {v}.
        Look for {E} in the {v}.
        {E} stands in the {v}.
        {E} is hidden in the {v}.
        They keep {E} in the {v}.
        {E} can be found in the {v}.""",
        """Where is {E}?
        Where can I find {E}?
        Where was {E} left?
        In which place is {E}?
        Do you know where {E} is?
        Where should I look for {E}?
        Where can {E} be found?
        Which place is {E} in?""",
        """Someone left {E} in the {v}.
        You will find {E} in the {v}.""",
        """Where is {E} kept?
        Tell me where {E} is.""",
        """{E} is now in the {v}.""",
        subject="object",
    ),
    _kind(
        "phone", "phones", "{E's} phone number is {v}.", "what {E's} phone number is.",
        "Is {E's} phone number {v}?",
        """{E's} phone number is {v}.
        {E's} number is {v}.
        The phone number of {E} is {v}.
        You can call {E} at {v}.
        {E's} phone is {v}.
        {E} [has|have] the phone number {v}.
        Call {E} at {v}.
        {v} is {E's} phone number.
        Reach {E} at {v}.
        {E} can be reached at {v}.
        Write down {v} for {E}.""",
        """What is {E's} phone number?
        What number [does|do] {E} have?
        How can I call {E}?
        What is the phone number of {E}?
        Do you know {E's} phone number?
        At what number can I reach {E}?
        What is {E's} number?""",
        """The number of {E} is {v}.
        You can phone {E} at {v}.""",
        """Tell me {E's} phone number.
        Which phone number [does|do] {E} have?""",
        """{E's} new phone number is {v}.""",
    ),
    _kind(
        "thing", "things", "{E} [has|have] {a v}.", "what {E} [has|have].",
        "[Does|Do] {E} have {a v}?",
        """{E} [has|have] {a v}.
        {E} [owns|own] {a v}.
        {E} [is|am|are] in possession of {a v}.
        {E} bought {a v}.
        {E} [carries|carry] {a v}.
        {E} got {a v}.
        {E} [possesses|possess] {a v}.
        {E} [is|am|are] the owner of {a v}.
        {E} found {a v}.
        {E} [holds|hold] {a v}.
        {E} [keeps|keep] {a v}.
        {E} brought {a v}.
        {E} [is|am|are] holding {a v}.
        There is {a v} that {E} [owns|own].
        {E} [is|am|are] using {a v}.
        {E} showed me {a v}.
        {E} received {a v}.
        {E} [walks|walk] around with {a v}.
        {E} [takes|take] {a v} everywhere.
        {E} picked up {a v}.""",
        """What [does|do] {E} have?
        What [does|do] {E} own?
        What [is|am|are] {E} in possession of?
        Which thing [does|do] {E} have?
        Do you know what {E} [has|have]?
        What [is|am|are] {E} holding?
        What [does|do] {E} keep?
        What object [does|do] {E} have?
        What [does|do] {E} carry?
        What did {E} bring?""",
        """{E} [is|am|are] carrying {a v}.
        Among other things {E} [has|have] {a v}.""",
        """What thing [does|do] {E} own?
        Tell me what {E} [has|have].""",
        """{E} now [has|have] {a v}.""",
    ),
    _kind(
        "language", "languages", "{E} [speaks|speak] {v}.", "what language {E} [speaks|speak].",
        "[Does|Do] {E} speak {v}?",
        """{E} [speaks|speak] {v}.
        {E's} language is {v}.
        {E} [speaks|speak] {v} at home.
        {E} always [speaks|speak] {v}.
        {E's} first language is {v}.
        The language {E} [speaks|speak] is {v}.
        At home {E} [speaks|speak] {v}.
        {v} is {E's} language.
        {E} grew up speaking {v}.
        {E} [talks|talk] in {v}.
        {E} [writes|write] in {v}.
        You can hear {E} speak {v}.
        {E} learned {v}.""",
        """What language [does|do] {E} speak?
        Which language [does|do] {E} speak?
        What is {E's} language?
        What [does|do] {E} speak?
        Do you know what language {E} [speaks|speak]?
        In which language [does|do] {E} talk?
        What language did {E} learn?""",
        """Every day {E} [speaks|speak] {v}.
        With friends {E} [speaks|speak] {v}.""",
        """Tell me what language {E} [speaks|speak].
        What is {E's} first language?""",
    ),
    _kind(
        "instrument", "instruments", "{E} [plays|play] the {v}.",
        "what instrument {E} [plays|play].",
        "[Does|Do] {E} play the {v}?",
        """{E} [plays|play] the {v}.
        {E} [likes|like] to play the {v}.
        {E} [plays|play] the {v} at home.
        {E's} instrument is the {v}.
        {E} [enjoys|enjoy] playing the {v}.
        The instrument {E} [plays|play] is the {v}.
        {E} always [plays|play] the {v}.
        {E} [plays|play] the {v} every day.
        {E} [practices|practice] the {v}.
        {E} [performs|perform] on the {v}.
        You can hear {E} play the {v}.
        {E} learned the {v}.""",
        """What instrument [does|do] {E} play?
        What [does|do] {E} play?
        Which instrument [does|do] {E} play?
        What is {E's} instrument?
        Do you know what {E} [plays|play]?
        What instrument [does|do] {E} practice?
        What instrument did {E} learn?""",
        """Every day {E} [plays|play] the {v}.
        {E} [loves|love] playing the {v}.""",
        """Tell me what {E} [plays|play].
        What instrument [does|do] {E} like to play?""",
    ),
    _kind(
        "sport", "sports", "{E's} favorite sport is {v}.", "what {E's} favorite sport is.",
        "Is {E's} favorite sport {v}?",
        """{E's} favorite sport is {v}.
        {E's} sport is {v}.
        The sport {E} [likes|like] best is {v}.
        {v} is {E's} favorite sport.
        {E} [does|do] {v} every week.
        The sport that {E} [loves|love] is {v}.
        For sport {E} [does|do] {v}.
        {E} [trains|train] for {v}.
        {E} [is|am|are] good at {v}.
        {E} [practices|practice] {v}.
        {E} [follows|follow] {v}.
        {E} never [misses|miss] {v}.
        When it comes to sport, {E} [likes|like] {v}.""",
        """What is {E's} favorite sport?
        Which sport [does|do] {E} like best?
        What sport [does|do] {E} do?
        What is {E's} sport?
        Do you know {E's} favorite sport?
        What sport [is|am|are] {E} good at?
        What sport [does|do] {E} follow?""",
        """The sport {E} [loves|love] is {v}.
        Every week {E} [does|do] {v}.""",
        """Which sport is {E's} favorite?
        What sport [does|do] {E} love?""",
    ),
    _kind(
        "country", "countries", "{E} [comes|come] from {v}.", "where {E} [comes|come] from.",
        "[Does|Do] {E} come from {v}?",
        """{E} [comes|come] from {v}.
        {E} [is|am|are] from {v}.
        {E's} home country is {v}.
        {E} grew up in {v}.
        {E's} country is {v}.
        The country {E} [comes|come] from is {v}.
        {E's} family is from {v}.
        {v} is {E's} home country.
        The country {E} grew up in is {v}.
        {E} moved here from {v}.
        You can tell that {E} [is|am|are] from {v}.
        {E} left the country {v}.""",
        """Where [does|do] {E} come from?
        What country [does|do] {E} come from?
        Which country [is|am|are] {E} from?
        What is {E's} home country?
        Where [is|am|are] {E} from?
        Do you know where {E} [comes|come] from?
        What country was {E} raised in?
        Which country did {E} leave?""",
        """Originally {E} [comes|come] from {v}.
        {E's} family [comes|come|come] from {v}.""",
        """Which country [does|do] {E} come from?
        Tell me where {E} [is|am|are] from.""",
    ),
    _kind(
        "like_color", "colors", "{E's} favorite color is {v}.", "what {E's} favorite color is.",
        "Is {E's} favorite color {v}?",
        """{E's} favorite color is {v}.
        The color {E} [likes|like] best is {v}.
        {v} is {E's} favorite color.
        {E} [loves|love] the color {v}.
        {E} [likes|like] the color {v}.
        {E} always [likes|like] the color {v}.
        The favorite color of {E} is {v}.
        The color that {E} [loves|love] is {v}.
        {E} [prefers|prefer] the color {v}.
        Of all colors {E} [likes|like] {v} best.
        {E} [picks|pick] the color {v} every time.
        {E} [is|am|are] fond of the color {v}.""",
        """What is {E's} favorite color?
        Which color [does|do] {E} like best?
        What color [does|do] {E} love?
        What color [does|do] {E} like?
        Do you know {E's} favorite color?
        Which color [does|do] {E} prefer?
        What color [does|do] {E} pick?""",
        """The color {E} [loves|love] is {v}.
        Of all colors {E} [loves|love] {v}.""",
        """Which color is {E's} favorite?
        Tell me {E's} favorite color.""",
    ),
)

KINDS: dict[str, Kind] = {kind.name: kind for kind in _ALL}
