"""Short descriptions of all sorts of things, as people type them: what most pictures have nothing to do with."""

ENGLISH = tuple(
    line.strip()
    for line in """
    a dog
    a black cat sleeping on a sofa
    two horses in a field
    birds on a wire
    a fish in an aquarium
    a butterfly on a flower
    sheep on a green hill
    an elephant at a waterhole
    a spider's web in the morning
    a snake
    a red car
    a bus in the rain
    people waiting for a train
    an old bicycle against a wall
    a motorcycle
    a ship in the harbour
    a small plane above the clouds
    a lorry on a motorway
    a tractor
    traffic at night
    mountains with snow
    a beach at sunset
    a waterfall in the forest
    a desert road
    waves breaking on rocks
    a frozen lake
    fog over a valley
    a field of sunflowers
    autumn leaves
    a starry sky
    lightning
    a rainbow
    a skyscraper
    a church tower
    a bridge over a river
    a narrow street in an old town
    a farmhouse
    a castle on a hill
    an empty parking lot
    a spiral staircase
    a kitchen with a wooden table
    a bedroom with white walls
    an office desk with a computer
    bookshelves in a library
    a bathroom
    a factory hall
    a hospital corridor
    a classroom
    a supermarket shelf
    a football stadium
    a man with a beard
    a woman in a red dress
    a smiling child
    a baby in a pram
    an old couple on a bench
    a crowd at a concert
    a wedding
    a business meeting
    a doctor with a patient
    a cook in a restaurant
    a soldier
    a football player scoring a goal
    someone riding a skateboard
    swimmers in a pool
    a runner crossing the finish line
    a yoga class
    children playing in the snow
    a person reading a newspaper
    hands holding a phone
    a portrait in black and white
    a plate of pasta
    a pizza with tomatoes
    fresh fruit at a market
    a cup of coffee
    a chocolate cake with candles
    sushi
    bread on a board
    a glass of red wine
    vegetables in a basket
    a hamburger with fries
    a guitar
    a piano
    a camera on a tripod
    a pair of shoes
    a wrist watch
    a leather bag
    a blue chair
    a lamp
    a teddy bear
    a chess board
    a pile of old books
    tools on a workbench
    a broken window
    a door with peeling paint
    a street sign
    a map of Europe
    a bar chart
    a screenshot of a website
    a handwritten letter
    a logo
    a company's invoice
    a medical X-ray
    a satellite image of a city
    a drawing of a house
    an oil painting of a landscape
    a cartoon character
    an abstract pattern
    a red circle on a white background
    a blue square
    graffiti on a wall
    a statue in a park
    a museum hall
    fireworks over a city
    a campfire at night
    a Christmas tree
    smoke from a chimney
    a construction site with cranes
    solar panels on a roof
    wind turbines
    a pile of rubbish
    a flooded street
    a microscope image of cells
    """.strip().splitlines()
)

CHINESE = tuple(
    line.strip()
    for line in """
    一只狗
    沙发上睡觉的黑猫
    草地上的两匹马
    花上的蝴蝶
    一辆红色的汽车
    雨中的公交车
    等火车的人们
    旧自行车
    港口里的船
    云上的飞机
    雪山
    日落时的海滩
    森林里的瀑布
    秋天的落叶
    星空
    摩天大楼
    河上的桥
    老城的小巷
    山上的城堡
    木桌厨房
    办公桌上的电脑
    图书馆的书架
    穿红裙子的女人
    微笑的孩子
    长椅上的老夫妻
    一碗面条
    市场上的新鲜水果
    一杯咖啡
    一把吉他
    一双鞋
    """.strip().splitlines()
)
