"""Language warnings, and no false ones for short English queries."""

import pytest

from viewfinder.query.language import language_warning

# Short phrases without a verb, full of words that other languages share.
ENGLISH = """
cat|a cat|dog|red car|sunset|beach|two birds|a boat at sea|menu|taxi|pizza|pasta|tiger|panorama|hotel|a dog in the snow
cat on mat|old man smoking|blue door|radio|piano|banana|kimono|sushi|graffiti wall|café terrace|naïve painting|Mona Lisa
Eiffel tower|Berlin wall|Paris in spring|Angela Merkel|Barcelona|San Francisco|Rio de Janeiro carnival|logo|selfie|bokeh
macro flower|minimal interior|concrete stairs|snow mountain|neon sign|wedding dress|baby laughing|kids playing football
horse jumping|empty road|night sky|stars|moon over lake|a green circle left of a red square|cartoon fox|ferrari|iphone
man in hat|woman in red|party|fire|ice|water drop|leaf|ant|bee|fish|shark|dolphin|elephant herd|zebra|giraffe eating
sand dunes|forest path|autumn leaves|waterfall|bridge|tower|castle|temple|skyline|tram|bus|tractor|tulips|rose|sofa|lamp
la vie en rose poster|a la carte menu|kindergarten|doppelganger|rucksack|fiesta|mosquito|patio|plaza|tortilla chips|sun
spaghetti carbonara|espresso machine|piano concerto|gondola in Venice|volcano in Iceland|mate tea|matador|tango|sauna
fjord in Norway|Volkswagen beetle|Lamborghini|bonsai|origami|tsunami|ramen|kimchi|feng shui|schnauzer|dachshund|poodle
rottweiler|german shepherd|corgi|husky|persian cat|Notre Dame|Sagrada Familia|Machu Picchu|Oktoberfest|die hard poster
die casting machine|den of lions|mist over moor|rot on wood|gift box|war memorial|hut in alps|art deco|chef in kitchen
not a dog|no people|no|or|an|red|circle|three red dots|two blue squares|big green triangle|purple|x|42|!!!|IMG_0017.jpg
woman with umbrella|man and dog|laptop on desk|dog on sofa|cat in box|bird on wire|sign|exit|stop sign|bar|bank|hall
mural|canal|metro|museum|palace|villa|chateau|bistro|gelato|croissant|baguette|sauerkraut|pretzel|schnitzel|burrito|taco
salsa|guacamole|tofu|miso soup|pho|curry|naan|kebab|falafel|hummus|vodka|champagne|rose wine|latte art|cappuccino|mocha
a cat 猫|the sign says 东京|Ω symbol|e=mc²
"""
PHRASES = [phrase for line in ENGLISH.strip().splitlines() for phrase in line.split("|")]


def test_no_short_english_query_gives_a_warning() -> None:
    assert len(PHRASES) >= 200
    assert [text for text in PHRASES if language_warning(text, "English")] == []


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("一只猫在沙滩上", "Chinese"),
        ("红色的车", "Chinese"),
        ("赤い車", "Japanese"),
        ("ネコ", "Japanese"),
        ("빨간 자동차", "Korean"),
        ("красная машина", "Russian"),
        ("قطة على الشاطئ", "Arabic"),
        ("ein Hund im Schnee", "German"),
        ("der rote Wagen steht vor dem Haus", "German"),
        ("une vieille femme avec un chapeau", "French"),
        ("un chien dans la neige", "French"),
    ],
)
def test_the_warning_names_a_language_that_the_model_does_not_know(text: str, language: str) -> None:
    warning = language_warning(text, "English")
    assert warning is not None
    assert language in warning
    assert "English" in warning


@pytest.mark.parametrize("languages", ["English, Chinese", "about 100", "more than 100", "unknown"])
def test_a_language_that_the_model_may_know_gives_no_warning(languages: str) -> None:
    assert language_warning("红色的车", languages) is None


def test_a_model_of_two_languages_does_not_know_the_others() -> None:
    assert "Japanese" in str(language_warning("赤い車", "English, Chinese"))
