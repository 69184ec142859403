"""The painted world's things and places, with the words that people use for them in English and Chinese.

The tables below are the whole vocabulary: adding a line adds a thing to the scenes, the captions and the queries.
Emoji are limited to Unicode 13 (2020), which every distribution's Noto Color Emoji has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

Zone = Literal["ground", "sky", "any"]


@dataclass(frozen=True)
class Thing:
    """One sprite. `names` are interchangeable; the first of each language is the plainest."""

    emoji: str
    names: tuple[str, ...]
    names_zh: tuple[str, ...]
    measure: str  # the Chinese measure word: 一*只*猫
    groups: tuple[str, ...]  # keys of GROUPS, for captions that only say "an animal"
    zone: Zone  # part of the image in which it is painted


@dataclass(frozen=True)
class Place:
    """One background. `nouns` name it ("beach"); `wheres` end a sentence ("on the beach")."""

    name: str
    nouns: tuple[str, ...]
    wheres: tuple[str, ...]
    nouns_zh: tuple[str, ...]
    wheres_zh: tuple[str, ...]


# General words: group -> English nouns, Chinese nouns. Some captions use them instead of a thing's name.
GROUPS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "animal": (("animal", "creature", "beast"), ("动物",)),
    "bird": (("bird",), ("鸟", "鸟儿")),
    "insect": (("insect", "bug"), ("昆虫", "虫子")),
    "sea animal": (("sea animal", "sea creature"), ("海洋动物", "海洋生物")),
    "fruit": (("fruit", "piece of fruit"), ("水果",)),
    "vegetable": (("vegetable",), ("蔬菜",)),
    "food": (("~food", "dish", "snack"), ("食物", "吃的")),
    "dessert": (("dessert", "sweet"), ("甜点", "甜食")),
    "drink": (("drink", "beverage"), ("饮料", "喝的")),
    "vehicle": (("vehicle", "means of transport"), ("交通工具", "车")),
    "aircraft": (("aircraft", "flying machine"), ("飞行器",)),
    "boat": (("boat", "vessel"), ("船",)),
    "plant": (("plant",), ("植物",)),
    "flower": (("flower", "blossom"), ("花", "花朵")),
    "tree": (("tree",), ("树", "树木")),
    "instrument": (("musical instrument", "instrument"), ("乐器",)),
    "ball": (("ball",), ("球",)),
    "sport": (("piece of sports equipment",), ("运动器材",)),
    "clothing": (("~clothing", "~clothes", "piece of clothing"), ("衣物", "穿戴的东西")),
    "building": (("building",), ("建筑", "建筑物")),
    "furniture": (("~furniture", "piece of furniture"), ("家具",)),
    "tool": (("tool",), ("工具",)),
    "device": (("device", "gadget", "~electronics"), ("电器", "电子产品")),
    "toy": (("toy",), ("玩具",)),
}

# [groups | zone] starts a section, then one thing per line: emoji, English names | measure word, Chinese names.
# "~" marks a word without a plural: "some bread", never "two breads".
_THINGS = """
[animal | ground]
🐈 cat, kitten, kitty | 只 猫 小猫 猫咪
🐕 dog, puppy, hound, doggy | 只 狗 小狗 狗狗
🐎 horse, pony, stallion | 匹 马 骏马
🐄 cow, dairy cow | 头 奶牛 牛
🐖 pig, piglet, hog | 头 猪 小猪
🐑 sheep, lamb, ewe | 只 绵羊 羊
🐇 rabbit, bunny, hare | 只 兔子 小兔子
🐘 elephant | 头 大象 象
🦒 giraffe | 只 长颈鹿
🐅 tiger | 只 老虎 虎
🦁 lion, lion head | 只 狮子 雄狮
🐒 monkey, ape | 只 猴子 猴
🐫 camel | 头 骆驼
🦌 deer, stag, reindeer | 只 鹿 小鹿
🦘 kangaroo | 只 袋鼠
🦓 zebra | 匹 斑马
🐻 bear, brown bear, bear face | 只 熊 棕熊
🐼 panda, giant panda | 只 熊猫 大熊猫
🦊 fox, red fox | 只 狐狸
🐸 frog, toad | 只 青蛙 蛙
🐢 turtle, tortoise | 只 乌龟 龟
🐍 snake, serpent | 条 蛇
🐊 crocodile, alligator | 条 鳄鱼
🐁 mouse, rat | 只 老鼠 小白鼠
🦔 hedgehog | 只 刺猬
🐌 snail | 只 蜗牛
[animal, bird | ground]
🐧 penguin | 只 企鹅
🦆 duck, mallard | 只 鸭子 野鸭
🐓 rooster, cock, chicken | 只 公鸡 鸡
🦩 flamingo | 只 火烈鸟
🦚 peacock | 只 孔雀
🐤 chick, baby chick, baby bird | 只 小鸡 雏鸡
[animal, bird | sky]
🦉 owl | 只 猫头鹰
🦅 eagle, hawk | 只 老鹰 鹰
🦜 parrot | 只 鹦鹉
[animal, insect | any]
🦋 butterfly | 只 蝴蝶
🐝 bee, honeybee, bumblebee | 只 蜜蜂
🐞 ladybug, ladybird, beetle | 只 瓢虫
[animal, sea animal | any]
🐟 fish | 条 鱼
🐠 tropical fish, clownfish | 条 热带鱼
🐬 dolphin | 只 海豚
🐳 whale | 头 鲸鱼 鲸
🦈 shark | 条 鲨鱼
🐙 octopus | 只 章鱼 八爪鱼
🦀 crab | 只 螃蟹
🦞 lobster, crayfish | 只 龙虾
[food, fruit | ground]
🍎 apple, red apple | 个 苹果 红苹果
🍌 banana | 根 香蕉
🍊 orange, tangerine, mandarin | 个 橙子 橘子
🍋 lemon | 个 柠檬
🍇 ~grapes, bunch of grapes | 串 葡萄
🍓 strawberry | 颗 草莓
🍉 watermelon, melon slice, slice of watermelon | 块 西瓜
🍍 pineapple, ananas | 个 菠萝 凤梨
🍐 pear | 个 梨 梨子
🍒 ~cherries, pair of cherries | 串 樱桃
[food, vegetable | ground]
🥕 carrot | 根 胡萝卜
🌽 ~corn, ear of corn, corn cob | 根 玉米
🍆 eggplant, aubergine | 个 茄子
🥦 ~broccoli, head of broccoli | 朵 西兰花
🍄 mushroom, toadstool | 个 蘑菇
[food | ground]
🍔 hamburger, burger, cheeseburger | 个 汉堡 汉堡包
🍕 pizza, slice of pizza, pizza slice | 块 披萨 比萨
🌭 hot dog, hotdog | 个 热狗
🍟 ~french fries, ~fries, ~chips, portion of fries | 包 薯条
🍞 ~bread, loaf of bread, ~toast | 块 面包 吐司
🧀 ~cheese, piece of cheese | 块 奶酪 芝士
🍳 fried egg, frying pan | 个 煎蛋 煎锅
🍜 bowl of noodles, noodle soup, ~ramen | 碗 面条 拉面
🍣 ~sushi, piece of sushi | 份 寿司
[food, dessert | ground]
🎂 birthday cake, cake | 个 蛋糕 生日蛋糕
🍩 donut, doughnut | 个 甜甜圈
🍪 cookie, biscuit | 块 饼干 曲奇
🍦 ice cream, ice cream cone, soft serve | 个 冰淇淋 雪糕
🍭 lollipop, ~candy | 根 棒棒糖 糖果
[drink | ground]
☕ cup of coffee, ~coffee, cup of tea | 杯 咖啡 热茶
🍺 mug of beer, beer, ~ale | 杯 啤酒
🍷 glass of wine, ~red wine, wine glass | 杯 红酒 葡萄酒
[vehicle | ground]
🚗 car, automobile, red car | 辆 汽车 小汽车 轿车
🚌 bus, coach | 辆 公共汽车 公交车 巴士
🚚 truck, lorry, delivery truck | 辆 卡车 货车
🚒 fire engine, fire truck | 辆 消防车
🚓 police car, patrol car | 辆 警车
🚜 tractor | 台 拖拉机
🚲 bicycle, bike, cycle | 辆 自行车 单车
🛵 scooter, moped, motor scooter | 辆 踏板车 摩托车
🚂 train, locomotive, steam engine | 列 火车 蒸汽火车
[vehicle, aircraft | sky]
✈ airplane, plane, aeroplane, jet | 架 飞机 客机
🚁 helicopter, chopper | 架 直升机
🚀 rocket, spaceship, space rocket | 枚 火箭
🛸 flying saucer, UFO | 架 飞碟 不明飞行物
[vehicle, boat | any]
⛵ sailboat, sailing boat, yacht | 艘 帆船
[plant, tree | ground]
🌲 pine tree, fir tree, conifer | 棵 松树
🌴 palm tree, palm, coconut tree | 棵 棕榈树 椰子树
🎄 christmas tree, xmas tree | 棵 圣诞树
[plant | ground]
🌵 cactus | 棵 仙人掌
🍁 maple leaf, red leaf, autumn leaf | 片 枫叶 红叶
[plant, flower | ground]
🌻 sunflower | 朵 向日葵
🌹 rose, red rose | 朵 玫瑰 红玫瑰
🌷 tulip | 朵 郁金香
[instrument | ground]
🎸 guitar, electric guitar | 把 吉他 电吉他
🎹 piano, keyboard, piano keyboard | 架 钢琴 键盘
🎺 trumpet | 把 小号
🎻 violin, fiddle | 把 小提琴
🥁 drum | 个 鼓
[sport, ball | ground]
⚽ soccer ball, football | 个 足球
🏀 basketball | 个 篮球
🎾 tennis ball, tennis racket, ~tennis | 个 网球 网球拍
🏈 american football, rugby ball | 个 橄榄球
🎱 billiard ball, pool ball, eight ball | 个 台球
[sport | ground]
🏆 trophy, gold cup | 座 奖杯
🎯 dartboard, target, bullseye | 个 靶子 飞镖靶
[clothing | ground]
👕 t-shirt, tee shirt, shirt | 件 T恤 衬衫
👗 dress, gown | 条 连衣裙 裙子
👖 ~jeans, ~trousers, ~pants, pair of jeans | 条 牛仔裤 裤子
🧦 ~socks, pair of socks | 双 袜子
👠 high heel, high-heeled shoe | 只 高跟鞋
👢 boot, leather boot | 只 靴子
🎩 top hat, hat, black hat | 顶 礼帽 帽子
👑 crown, gold crown | 顶 王冠 皇冠
👓 ~glasses, pair of glasses, ~spectacles | 副 眼镜
[building | ground]
🏠 house, home, cottage | 座 房子 小屋
⛪ church, chapel | 座 教堂
🏰 castle, fortress | 座 城堡
⛺ tent, camping tent | 顶 帐篷
[furniture | ground]
🪑 chair, wooden chair | 把 椅子 木椅
🛏 bed | 张 床
🛋 sofa, couch, settee | 张 沙发
🚪 door, wooden door | 扇 门 木门
[tool | ground]
🔨 hammer | 把 锤子
🔑 key, gold key | 把 钥匙
✂ ~scissors, pair of scissors | 把 剪刀
[device | ground]
💻 laptop, computer, notebook computer | 台 笔记本电脑 电脑
📷 camera | 台 相机 照相机
📺 television, TV, TV set | 台 电视 电视机
⏰ alarm clock, clock | 个 闹钟 时钟
💡 light bulb, bulb, lamp | 个 灯泡 电灯
☎ telephone, phone, red telephone | 部 电话 电话机
[toy | any]
🎈 balloon, red balloon | 个 气球 红气球
[toy | ground]
🧸 teddy bear, teddy, stuffed bear | 个 泰迪熊 玩具熊
🎁 gift, present, gift box | 个 礼物 礼品盒
[tool | any]
☂ umbrella, purple umbrella | 把 雨伞 伞
[device | ground]
📕 book, red book | 本 书 红皮书
"""

PLACES: tuple[Place, ...] = (
    Place(
        "beach",
        ("beach", "seaside", "sandy beach", "seashore", "coast"),
        ("on the beach", "at the beach", "by the sea", "at the seaside", "on the sand by the sea", "by the ocean"),
        ("海滩", "沙滩", "海边"),
        ("海滩上", "沙滩上", "海边"),
    ),
    Place(
        "forest",
        ("forest", "woods", "woodland", "trees"),
        ("in the forest", "in the woods", "among the trees", "in a forest"),
        ("森林", "树林"),
        ("森林里", "树林里", "林子里"),
    ),
    Place(
        "night sky",
        ("night", "night sky", "starry night", "stars and moon"),
        ("at night", "under the stars", "under a starry sky", "in the dark", "by moonlight", "under the moon"),
        ("夜晚", "夜空", "星空"),
        ("夜空下", "星空下", "夜晚的月光下"),
    ),
    Place(
        "snow",
        ("snow", "winter", "snowy mountains", "snowy landscape"),
        ("in the snow", "in winter", "on the snow", "in the snowy mountains", "on a snowy day"),
        ("雪地", "雪山", "冬天"),
        ("雪地里", "雪地上", "雪山下"),
    ),
    Place(
        "desert",
        ("desert", "dunes", "sand dunes", "sahara"),
        ("in the desert", "among the dunes", "on the sand dunes", "in a hot desert"),
        ("沙漠", "沙丘"),
        ("沙漠里", "沙漠中", "沙丘上"),
    ),
    Place(
        "city street",
        ("street", "city", "city street", "town", "road"),
        ("on the street", "in the city", "on a city street", "in town", "on the road", "downtown"),
        ("街道", "城市", "马路"),
        ("街上", "城市里", "马路上"),
    ),
    Place(
        "kitchen",
        ("kitchen", "kitchen counter", "indoors"),
        ("in the kitchen", "on the kitchen counter", "in a kitchen", "at home in the kitchen"),
        ("厨房",),
        ("厨房里", "厨房台面上"),
    ),
    Place(
        "meadow",
        ("meadow", "grass", "field", "green field", "countryside"),
        ("in the meadow", "on the grass", "in a green field", "on the lawn", "in the countryside"),
        ("草地", "草原", "田野"),
        ("草地上", "草原上", "田野里"),
    ),
    Place(
        "underwater",
        ("underwater", "deep sea", "sea floor", "seabed"),
        ("under water", "under the sea", "at the bottom of the sea", "below the waves"),
        ("海底", "水下"),
        ("海底", "水下", "海水里"),
    ),
    Place(
        "sunset",
        ("sunset", "dusk", "evening sky", "sundown"),
        ("at sunset", "at dusk", "in the evening light", "in front of the setting sun", "at sundown"),
        ("日落", "夕阳", "黄昏"),
        ("夕阳下", "日落时", "黄昏中"),
    ),
)


def _words(cell: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in cell.split(","))


def _read_things(table: str) -> tuple[Thing, ...]:
    things: list[Thing] = []
    groups: tuple[str, ...] = ()
    zone: Zone = "ground"
    for line in filter(None, map(str.strip, table.splitlines())):
        left, right = (part.strip() for part in line.strip("[]").split("|"))
        if line.startswith("["):
            groups, zone = _words(left), cast("Zone", right)
        else:
            emoji, names = left.split(" ", 1)
            measure, *names_zh = right.split()
            things.append(Thing(emoji, _words(names), tuple(names_zh), measure, groups, zone))
    return tuple(things)


THINGS: tuple[Thing, ...] = _read_things(_THINGS)
