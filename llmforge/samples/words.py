"""Word tables and sentence templates of the built-in example data set.

Purpose: the closed vocabulary from which `llmforge.samples.conversations` builds chats.
In -> out: nothing goes in; constants come out: facts as tuples, phrasings as templates with
named slots (`{country}`).
Not done here: no logic, no randomness. The order of every table matters: changing it changes
the data set that a seed gives.
"""

from __future__ import annotations

SYSTEMS: tuple[str, ...] = (
    "You are a helpful assistant.",
    "Answer in one short sentence.",
    "You are a friendly teacher.",
    "Give short and correct answers.",
    "You help a child with homework.",
    "Be brief and polite.",
    "Answer every question clearly.",
    "You are a patient tutor.",
)

# Kept from the formatter, which would give each pair a line of its own.
# fmt: off

# Left out on purpose: countries whose capital is disputed, shared, planned or changing, and
# names that need an article ("the Netherlands").
CAPITALS: tuple[tuple[str, str], ...] = (
    ("France", "Paris"), ("Germany", "Berlin"), ("Italy", "Rome"), ("Spain", "Madrid"),
    ("Portugal", "Lisbon"), ("Norway", "Oslo"), ("Sweden", "Stockholm"),
    ("Finland", "Helsinki"), ("Denmark", "Copenhagen"), ("Iceland", "Reykjavik"),
    ("Ireland", "Dublin"), ("Poland", "Warsaw"), ("Austria", "Vienna"),
    ("Hungary", "Budapest"), ("Greece", "Athens"), ("Romania", "Bucharest"),
    ("Bulgaria", "Sofia"), ("Croatia", "Zagreb"), ("Serbia", "Belgrade"),
    ("Belgium", "Brussels"), ("Latvia", "Riga"), ("Estonia", "Tallinn"),
    ("Lithuania", "Vilnius"), ("Ukraine", "Kyiv"), ("Turkey", "Ankara"), ("Egypt", "Cairo"),
    ("Kenya", "Nairobi"), ("Ghana", "Accra"), ("Morocco", "Rabat"), ("Senegal", "Dakar"),
    ("Japan", "Tokyo"), ("China", "Beijing"), ("Thailand", "Bangkok"), ("Vietnam", "Hanoi"),
    ("Canada", "Ottawa"), ("Cuba", "Havana"), ("Peru", "Lima"), ("Chile", "Santiago"),
    ("Ecuador", "Quito"), ("Australia", "Canberra"),
)

# Asked in both directions, so each word has one opposite only ("light", "old" and "short"
# have two and are left out).
OPPOSITES: tuple[tuple[str, str], ...] = (
    ("hot", "cold"), ("big", "small"), ("fast", "slow"), ("wet", "dry"), ("full", "empty"),
    ("clean", "dirty"), ("open", "closed"), ("rich", "poor"), ("loud", "quiet"),
    ("strong", "weak"), ("happy", "sad"), ("early", "late"), ("thick", "thin"),
    ("near", "far"), ("deep", "shallow"), ("wide", "narrow"), ("high", "low"),
    ("easy", "difficult"), ("inside", "outside"), ("true", "false"), ("push", "pull"),
    ("cheap", "expensive"), ("safe", "dangerous"), ("smooth", "rough"), ("always", "never"),
)

# Left out: nouns with two accepted plurals ("fish", "hoof", "person").
PLURALS: tuple[tuple[str, str], ...] = (
    ("child", "children"), ("man", "men"), ("woman", "women"), ("foot", "feet"),
    ("tooth", "teeth"), ("mouse", "mice"), ("goose", "geese"), ("ox", "oxen"),
    ("sheep", "sheep"), ("deer", "deer"), ("leaf", "leaves"), ("knife", "knives"),
    ("wolf", "wolves"), ("shelf", "shelves"), ("loaf", "loaves"), ("life", "lives"),
    ("thief", "thieves"), ("baby", "babies"), ("city", "cities"), ("lady", "ladies"),
    ("story", "stories"), ("party", "parties"), ("berry", "berries"), ("box", "boxes"),
    ("bus", "buses"), ("glass", "glasses"), ("dish", "dishes"), ("watch", "watches"),
    ("fox", "foxes"), ("potato", "potatoes"), ("hero", "heroes"), ("piano", "pianos"),
    ("photo", "photos"), ("dog", "dogs"), ("book", "books"), ("tree", "trees"),
    ("boy", "boys"), ("key", "keys"), ("apple", "apples"), ("house", "houses"),
)

YOUNG: tuple[tuple[str, str], ...] = (
    ("a dog", "a puppy"), ("a cat", "a kitten"), ("a cow", "a calf"), ("a horse", "a foal"),
    ("a sheep", "a lamb"), ("a goat", "a kid"), ("a pig", "a piglet"),
    ("a chicken", "a chick"), ("a duck", "a duckling"), ("a goose", "a gosling"),
    ("a swan", "a cygnet"), ("a bear", "a cub"), ("a lion", "a cub"), ("a tiger", "a cub"),
    ("a leopard", "a cub"), ("a frog", "a tadpole"), ("a toad", "a tadpole"),
    ("a deer", "a fawn"), ("a kangaroo", "a joey"), ("a koala", "a joey"),
    ("an owl", "an owlet"), ("an eagle", "an eaglet"), ("a hare", "a leveret"),
    ("a whale", "a calf"), ("an elephant", "a calf"), ("a camel", "a calf"),
    ("a giraffe", "a calf"), ("a dolphin", "a calf"), ("a zebra", "a foal"),
    ("a donkey", "a foal"), ("a seal", "a pup"), ("a bat", "a pup"), ("a shark", "a pup"),
    ("a turkey", "a poult"), ("a pigeon", "a squab"), ("a hedgehog", "a hoglet"),
    ("a penguin", "a chick"), ("a llama", "a cria"),
)

COLOURS: tuple[tuple[str, str], ...] = (
    ("a ripe banana", "yellow"), ("a lemon", "yellow"), ("butter", "yellow"),
    ("an egg yolk", "yellow"), ("mustard", "yellow"), ("a canary", "yellow"),
    ("grass", "green"), ("a cucumber", "green"), ("spinach", "green"), ("broccoli", "green"),
    ("an emerald", "green"), ("a lime", "green"), ("a pea", "green"), ("lettuce", "green"),
    ("snow", "white"), ("milk", "white"), ("salt", "white"), ("flour", "white"),
    ("chalk", "white"), ("a polar bear", "white"), ("coal", "black"), ("a raven", "black"),
    ("tar", "black"), ("soot", "black"), ("a crow", "black"), ("a fire engine", "red"),
    ("a ripe tomato", "red"), ("a ruby", "red"), ("a ripe strawberry", "red"),
    ("ketchup", "red"), ("a stop sign", "red"), ("a clear sky at noon", "blue"),
    ("a sapphire", "blue"), ("a carrot", "orange"), ("a pumpkin", "orange"),
    ("a tangerine", "orange"), ("a flamingo", "pink"), ("an elephant", "grey"),
    ("cement", "grey"), ("ash", "grey"), ("lavender", "purple"), ("an aubergine", "purple"),
    ("milk chocolate", "brown"), ("tree bark", "brown"), ("a chestnut", "brown"),
)

DAYS: tuple[str, ...] = (
    "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday",
)
MONTHS: tuple[str, ...] = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)

NAMES: tuple[str, ...] = (
    "Lena", "Omar", "Mia", "Noah", "Ana", "Ivan", "Sara", "Hugo", "Nina", "Paul", "Eva", "Karl",
    "Lucy", "Adam", "Rosa", "Felix", "Clara", "Oscar", "Julia", "Peter", "Maria", "David",
    "Helen", "Simon",
)
HOMES: tuple[str, ...] = (
    "Oslo", "Paris", "Rome", "Lima", "Cairo", "Tokyo", "Vienna", "Dublin", "Boston", "Munich",
    "Milan", "Geneva", "Sydney", "Mumbai", "Toronto", "Bergen", "Porto", "Leeds", "Lyon", "Kobe",
)
ITEMS: tuple[str, ...] = (
    "apple", "bread", "pen", "cup", "lamp", "chair", "soap", "rice", "coat", "rope", "ball",
    "plate", "hat", "drum", "spoon", "stamp",
)
# fmt: on

# One entry for each kind of question: its phrasings here, the sentence that answers it below.
# No slot opens a sentence: a byte-level tokenizer sees a word without the space before it as
# different tokens, and a tiny model cannot tell that they are the same word.
ASKS: dict[str, tuple[str, ...]] = {
    "capital": (
        "What is the capital of {country}?",
        "Which city is the capital of {country}?",
        "Name the capital of {country}.",
        "Tell me the capital of {country}.",
        "Do you know the capital of {country}?",
        "I forgot the capital of {country}. What is it?",
        "Please name the capital city of {country}.",
        "Can you tell me what the capital of {country} is?",
        "My quiz asks for the capital of {country}. What is the answer?",
        "I have a friend in {country}. What is the capital there?",
    ),
    "opposite": (
        "What is the opposite of {word}?",
        "Name the opposite of {word}.",
        "Which word means the opposite of {word}?",
        "Give me the opposite of {word}.",
        "What is the opposite word for {word}?",
        "Tell me the opposite of {word}.",
        "I need a word that is the opposite of {word}.",
        "Can you give me the opposite of the word {word}?",
        "Find the opposite of {word}, please.",
        "My quiz asks for the opposite of {word}. What is the answer?",
    ),
    "plural": (
        "What is the plural of {one}?",
        "Name the plural of {one}.",
        "What do you call more than one {one}?",
        "One {one}, two what?",
        "Give me the plural form of {one}.",
        "How do I write {one} in the plural?",
        "What is the plural form of the noun {one}?",
        "Tell me the plural of the word {one}.",
        "I have one {one}. What is the word for many?",
        "Which word means more than one {one}?",
    ),
    "young": (
        "What is a young {animal} called?",
        "What do you call a young {animal}?",
        "What is the name for a baby {animal}?",
        "Name the young of {an_animal}.",
        "What do people call the young of {an_animal}?",
        "Which word means a young {animal}?",
        "Tell me the word for a baby {animal}.",
        "What is the baby of {an_animal} called?",
        "I saw a baby {animal}. What is the right word for it?",
        "Please give me the name for a young {animal}.",
    ),
    "colour": (
        "What colour is {thing}?",
        "What is the usual colour of {thing}?",
        "Which colour does {thing} have?",
        "Tell me the colour of {thing}.",
        "Name the colour of {thing}.",
        "Do you know what colour {thing} is?",
        "I want to paint {thing}. Which colour do I need?",
        "In a picture of {thing}, which colour do you see?",
        "Can you tell me the usual colour of {thing}?",
        "Think of {thing}. What colour is it?",
    ),
    "day after": (
        "What day comes after {day}?",
        "Which day comes right after {day}?",
        "If today is {day}, what day is tomorrow?",
        "What is the day after {day}?",
        "Today is {day}. What day is it tomorrow?",
        "Name the day after {day}.",
        "Tell me which day follows {day}.",
        "Which day of the week is next after {day}?",
    ),
    "day before": (
        "What day comes before {day}?",
        "Which day comes right before {day}?",
        "If today is {day}, what day was yesterday?",
        "What is the day before {day}?",
        "Today is {day}. What day was it yesterday?",
        "Name the day before {day}.",
        "Tell me which day is just before {day}.",
        "Which day of the week is the last one before {day}?",
    ),
    "month after": (
        "What month comes after {month}?",
        "Which month comes right after {month}?",
        "If it is {month} now, what is the next month?",
        "What is the month after {month}?",
        "It is {month} now. What month comes next?",
        "Name the month after {month}.",
        "Tell me which month follows {month}.",
        "Which month of the year is next after {month}?",
    ),
    "month before": (
        "What month comes before {month}?",
        "Which month comes right before {month}?",
        "If it is {month} now, what was the last month?",
        "What is the month before {month}?",
        "It is {month} now. What month has just ended?",
        "Name the month before {month}.",
        "Tell me which month is just before {month}.",
        "Which month of the year is the last one before {month}?",
    ),
    "sum": (
        "What is {a} plus {b}?",
        "What is {a} + {b}?",
        "Add {a} and {b}.",
        "How much is {a} plus {b}?",
        "What do you get when you add {a} and {b}?",
        "What is the sum of {a} and {b}?",
        "Take {a} and add {b}. What is the result?",
        "Work out {a} plus {b}.",
        "Please add {a} and {b} for me.",
        "Start at {a} and go up by {b}. Where do you end?",
    ),
    "difference": (
        "What is {a} minus {b}?",
        "What is {a} - {b}?",
        "Go down from {a} by {b}. Where do you end?",
        "How much is {a} minus {b}?",
        "If I have {a} and lose {b}, how much is left?",
        "What is the difference between {a} and {b}?",
        "Start with {a} and take away {b}. What is the result?",
        "Work out {a} minus {b}.",
        "Please work out {a} take away {b} for me.",
        "You have {a} and give away {b}. What is left?",
    ),
    "compare": (
        "Is {a} greater than {b}?",
        "Is {a} more than {b}?",
        "Is {a} bigger than {b}?",
        "Is the number {a} greater than {b}?",
        "Yes or no: is {a} greater than {b}?",
        "Would you say that {a} is more than {b}?",
        "Can you tell me if {a} is greater than {b}?",
        "Is it true that {a} is greater than {b}?",
        "Compare {a} with {b}. Is the first one greater?",
        "I think {a} is bigger than {b}. Is that right?",
    ),
    "count": (
        "Count from {a} to {b}.",
        "Please count from {a} up to {b}.",
        "Which whole numbers go from {a} to {b}?",
        "List the numbers from {a} to {b}.",
        "Say the numbers from {a} to {b}.",
        "Start at {a} and count up to {b}.",
        "Can you count from {a} to {b}?",
        "What are the whole numbers from {a} to {b}?",
        "Write down every number from {a} to {b}.",
        "Begin with {a} and count until you get to {b}.",
    ),
    "first item": (
        "What is the first item in this list: {a}, {b}, {c}?",
        "Here is my list: {a}, {b}, {c}. What comes first?",
        "Look at {a}, {b}, {c}. Which one is first?",
        "My list says {a}, {b}, {c}. Which item is first?",
        "Which item comes first: {a}, {b}, {c}?",
        "From the list {a}, {b}, {c}, give me the first item.",
        "Read this list: {a}, {b}, {c}. Name the first item.",
        "I wrote down {a}, {b}, {c}. What was first?",
    ),
    "last item": (
        "What is the last item in this list: {a}, {b}, {c}?",
        "Here is my list: {a}, {b}, {c}. What comes last?",
        "Look at {a}, {b}, {c}. Which one is last?",
        "My list says {a}, {b}, {c}. Which item is last?",
        "Which item comes last: {a}, {b}, {c}?",
        "From the list {a}, {b}, {c}, give me the last item.",
        "Read this list: {a}, {b}, {c}. Name the last item.",
        "I wrote down {a}, {b}, {c}. What was last?",
    ),
    "home": (
        "Where do I live?",
        "Which city do I live in?",
        "What city is my home in?",
        "Do you remember where I live?",
        "Tell me where I live.",
        "In which city is my home?",
        "Can you say where I live?",
        "What is the name of my home city?",
    ),
    "name": (
        "What is my name?",
        "Do you remember my name?",
        "Who am I?",
        "Tell me my name.",
        "What am I called?",
        "Can you say my name?",
        "Which name did I give you?",
        "What name did I tell you?",
    ),
}

INTRODUCTIONS: tuple[str, ...] = (
    "My name is {name} and I live in {city}.",
    "I am {name} and my home is in {city}.",
    "Hello, I am {name} and I live in {city}.",
    "I live in {city} and my name is {name}.",
    "People call me {name}. I live in {city}.",
    "My home is in {city}. My name is {name}.",
    "Good morning! My name is {name} and my home city is {city}.",
    "I live in {city}. You can call me {name}.",
)
GREETING = "Nice to meet you, {name}."

ANSWERS: dict[str, str] = {
    "capital": "The capital of {country} is {capital}.",
    "opposite": "The opposite of {word} is {other}.",
    "plural": "The plural of {one} is {many}.",
    "young": "A young {animal} is called {baby}.",
    "colour": "The usual colour of {thing} is {colour}.",
    "day after": "{answer} comes after {day}.",
    "day before": "{answer} comes before {day}.",
    "month after": "{answer} comes after {month}.",
    "month before": "{answer} comes before {month}.",
    "sum": "{a} plus {b} is {total}.",
    "difference": "{a} minus {b} is {rest}.",
    "compare": "{verdict} greater than {b}.",
    "count": "The numbers are {numbers}.",
    "first item": "The first item is {a}.",
    "last item": "The last item is {c}.",
    "home": "You live in {city}.",
    "name": "Your name is {name}.",
}
