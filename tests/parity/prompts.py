"""Twenty texts of varied kind and length."""

PROMPTS = (
    "Hello",
    "The capital of France is",
    "Water boils at 100 degrees Celsius at sea level, but on a high mountain the air is thinner, "
    "so",
    "1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233,",
    "3.14159265358979323846264338327950288419716939937510",
    "def fibonacci(n: int) -> int:\n    if n < 2:\n        return n\n    return fibonacci(n - 1) +",
    "#include <stdio.h>\n\nint main(void) {\n    for (int i = 0; i < 10; ++i) {\n"
    '        printf("%d\\n", i);\n    }\n    return 0;\n}\n',
    '{"name": "Ada", "born": 1815, "languages": ["English", "French"], "children": [{"name": "',
    "SELECT customers.name, SUM(orders.total) FROM customers JOIN orders ON customers.id = ",
    "| month | rain (mm) |\n|---|---|\n| January | 48 |\n| February | 41 |\n| March | 52 |\n"
    "| April |",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich, während der Nebel",
    "Der schnelle braune Fuchs springt über den faulen Hund. Am nächsten Morgen",
    "Los niños jugaban en la calle mientras la lluvia caía; su abuela les dijo: «¡Entrad!",
    "日本の首都は東京です。フランスの首都は",
    "Привет, как дела? Сегодня хорошая погода, и мы",
    "🙂🚀✨ emoji, naïve café, Ω ≈ 2π, ½ + ¼ = ¾, tabs\tand\ttrailing   spaces   ",
    "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>system\nYou are a helpful assistant that answers in one sentence.<|im_end|>\n"
    "<|im_start|>user\nWhy is the sky blue, and why are sunsets red?<|im_end|>\n"
    "<|im_start|>assistant\n",
    "The old lighthouse keeper climbed the spiral stairs every evening, carrying a small "
    "lantern and a notebook. For forty years he had written down the weather, the ships that "
    "passed and the birds that rested on the railing. Tonight the sea was calm, and the only "
    "sound was the slow turning of the lamp. He opened the notebook, wrote the date, and then"
    " he noticed something strange on the horizon:",
    "Photosynthesis is the process by which plants, algae and some bacteria turn light into "
    "chemical energy. In the light-dependent reactions, chlorophyll absorbs photons and "
    "passes electrons along a chain of proteins in the thylakoid membrane; water is split, "
    "oxygen is released, and ATP and NADPH are made. In the Calvin cycle, these carriers "
    "drive the fixation of carbon dioxide into sugars. The first step is catalysed by the "
    "enzyme RuBisCO, which is perhaps the most abundant protein on Earth. Its rate is slow, "
    "about three molecules a second, and it sometimes binds oxygen instead of carbon dioxide."
    " Plants of hot, dry places have therefore evolved ways to concentrate carbon dioxide "
    "around the enzyme, for example",
)
