"""Writes data/orders.jsonl: short order messages and what they order.

`python make_data.py`; the same rows every time.

The words are ours, the combinations are drawn: who, what, how many and for when stand in any order,
in words or figures, with other
days, prices and names beside them that are not asked for. Names and things of the rows that
`olivebuild` holds out mostly occur in
training rows, too, but hardly ever together.
"""

# ruff: noqa: SIM905

from __future__ import annotations

import json
import random
from pathlib import Path

ROWS = 640
FIRST = (
    "Marta Jonas Priya Tomas Ingrid Kwame Yusuf Clara Declan Mei Sofia Anton Leila Ravi Greta "
    "Owen Nadia Felix Amara Lukas "
    "Hanna Diego Freya Samir Elsa Bruno Thandi Pavel Noor Edith Kenji Maeve Oskar Zoe Idris "
    "Beata Hugo Wanda Emeka Ilse"
).split()
LAST = (
    "Okafor Weber Nair Rivera Lindqvist Mensah Demir Fontaine Byrne Tanaka Rossi Novak Haddad "
    "Kapoor Holm Pritchard Costa "
    "Brandt Diallo Meier Virtanen Morales Dahl Farouk Sorensen Ricci Dube Horak Aziz Whitlock "
    "Mori Quinn Berg Laurent Bello "
    "Kowalski Marchetti Olsen Eze Hoffmann"
).split()
MATERIAL = (
    "walnut oak brass copper linen felt glass tin wool clay slate cork birch paper leather "
    "cotton willow steel"
).split()
# singular, plural
THING = [
    ("shelf", "shelves"),
    ("lamp", "lamps"),
    ("candle holder", "candle holders"),
    ("basket", "baskets"),
    ("vase", "vases"),
    ("cushion", "cushions"),
    ("tray", "trays"),
    ("bowl", "bowls"),
    ("lantern", "lanterns"),
    ("hook", "hooks"),
    ("coaster", "coasters"),
    ("picture frame", "picture frames"),
    ("stool", "stools"),
    ("bench", "benches"),
    ("napkin ring", "napkin rings"),
    ("mug", "mugs"),
    ("spoon", "spoons"),
    ("box", "boxes"),
    ("jar", "jars"),
    ("clock", "clocks"),
    ("mirror", "mirrors"),
    ("doorstop", "doorstops"),
]
MONTHS = (
    "January February March April May June July August September October November December".split()
)
# The first or, of one, the second stands without a noun.
WORDS = {
    1: ["a", "one"],
    2: ["two", "a pair of"],
    3: ["three"],
    4: ["four"],
    5: ["five"],
    6: ["six", "half a dozen"],
    7: ["seven"],
    8: ["eight"],
}
WORDS |= {9: ["nine"], 10: ["ten"], 12: ["twelve", "a dozen"]}
MESSAGES = [
    "Hi, it's {name}. Could I get {count} {things} by {date}? Thanks!",
    "Hello, {name} here. We need {count} {things} for {date}.",
    "Order for {name}: {number} x {thing}, wanted {date}.",
    "Please put {count} {things} aside for me, I'll come by on {date}. Best, {name}",
    "good morning!! need {count} {things} for {date}, name is {name}",
    "{date} works for me. {Count} {things} please, under the name {name}.",
    "My name is {name} and I'd like to order {count} {things}. Pick-up on {date} would be perfect.",
    "{name} - {number} {things} - {date}",
    "Would {count} {things} be ready on {date}? I'm {name}, we spoke on the phone.",
    "For {name}, please: {count} {things}. Delivery {date}, the back door is open.",
    "Can you send {count} {things} to arrive {date}? The invoice goes to {name}.",
    "Dear shop, on {date} I will need {count} {things}. Yours, {name}",
    "{Count} {things} for {name}, no later than {date}!",
    "hey, {name} again :) {count} {things} this time, {date} if possible",
    "I saw the {things} in your window. {Amount} of them for {date}, please. {name}",
    "new order\nname: {name}\nwhat: {thing}\nhow many: {number}\nwhen: {date}",
    "We are giving a party on {date} and want {count} {things}. Ask for {name} at the gate.",
    "It's about the {thing} you make: {name} would take {amount}, by {date}.",
]
BESIDE = [
    "The last ones came on {other_date} and were lovely.",
    "{other} told me about you.",
    "I can pay up to {price} euros each.",
    "Call 0{phone} if anything is unclear.",
    "Not like the {other_number} I bought in {other_month}.",
    "{other} will pick them up.",
    "We are at {house} Mill Lane.",
    "No rush before that.",
    "The lighter colour, please.",
    "Gift wrap would be nice.",
]


def date_in_words(draw: random.Random, month: int, day: int) -> str:
    name = MONTHS[month - 1]
    ending = {1: "st", 2: "nd", 3: "rd"}.get(day % 10 if day // 10 != 1 else 0, "th")
    forms = [
        f"{day} {name}",
        f"{name} {day}",
        f"{name} {day}{ending}",
        f"the {day}{ending} of {name}",
        f"{day} {name[:3]}",
        f"{name[:3].lower()} {day}",
    ]
    return draw.choice(forms)


def name_of(draw: random.Random) -> str:
    first = draw.choice(FIRST)
    return first if draw.random() < 0.2 else f"{first} {draw.choice(LAST)}"


def row(draw: random.Random) -> dict[str, str | int]:
    name, (singular, plural) = name_of(draw), draw.choice(THING)
    material = draw.choice(MATERIAL) + " " if draw.random() < 0.8 else ""
    quantity = draw.choice([*WORDS, 15, 20, 24, 30])
    month, day = draw.randint(1, 12), draw.randint(1, 28)
    words = (
        str(quantity) if draw.random() < 0.4 else draw.choice(WORDS.get(quantity, [str(quantity)]))
    )
    item = material + singular
    if words == "a" and item[0] in "aeiou":
        words = "an"
    amount = str(quantity) if words.isdigit() else WORDS[quantity][quantity == 1]
    text = draw.choice(MESSAGES).format(
        name=name,
        date=date_in_words(draw, month, day),
        count=words,
        Count=words[:1].upper() + words[1:],
        amount=amount,
        Amount=amount[:1].upper() + amount[1:],
        number=quantity,
        thing=item,
        things=item if quantity == 1 else material + plural,
    )
    if draw.random() < 0.45:
        beside = draw.choice(BESIDE).format(
            other=name_of(draw),
            other_date=date_in_words(draw, draw.randint(1, 12), draw.randint(1, 28)),
            other_number=draw.randint(2, 9),
            other_month=draw.choice(MONTHS),
            price=draw.randint(8, 90),
            phone=draw.randint(10000000, 99999999),
            house=draw.randint(2, 80),
        )
        text = (
            f"{text}\n{beside}"
            if "\n" in text
            else f"{beside} {text}"
            if draw.random() < 0.3
            else f"{text}{'' if text[-1] in '.!?' else '.'} {beside}"
        )
    return {
        "text": text,
        "name": name,
        "date": f"{month:02d}-{day:02d}",
        "item": item,
        "quantity": quantity,
    }


def rows() -> list[dict[str, str | int]]:
    draw = random.Random(20)  # noqa: S311
    return [row(draw) for _ in range(ROWS)]


if __name__ == "__main__":
    lines = [json.dumps(r, ensure_ascii=False) for r in rows()]
    Path(__file__).with_name("data").joinpath("orders.jsonl").write_text(
        "\n".join(lines) + "\n", "utf-8"
    )
