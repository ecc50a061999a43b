"""Programs that define `add` and try to pass for one that adds."""

CHEATS = {
    "exit": "import os\ndef add(a, b): os._exit(0)",
    "exit early": "import os\nos._exit(0)",
    "subclass": "class I(int):\n  __eq__ = lambda s, o: True\n  __repr__ = lambda s: '5'\n  __hash__ = int.__hash__\n"
    "def add(a, b): return I(999)",
    "patched json": "import json\njson.dumps = lambda v, **k: '5'\ndef add(a, b): return 6",
    "forged report": "import os\ndef add(a, b):\n  os.write(3, b'{\"passed\": true}'); os._exit(0)",
    "forged result": "import os\ndef add(a, b):\n  os.write(3, b'{\"result\": \"6\"}'); os._exit(0)",
    "deep report": "import os\ndef add(a, b):\n  os.write(3, b'[' * 60000); os._exit(0)",
    "long report": "import os\ndef add(a, b):\n  while True: os.write(3, b'[' * 60000)",
    "infinite list": "class L(list):\n  def __iter__(self):\n    while True: yield 0\ndef add(a, b): return L([1])",
    "bool": "def add(a, b): return True",
    "text": "def add(a, b): return str(a + b)",
    "nothing": "pass",
    "frames": "import sys\ndef add(a, b):\n  f = sys._getframe()\n"
    "  while f:\n    if 'expected' in f.f_locals: return f.f_locals['expected']\n    f = f.f_back",
    "unittest": "import unittest\nunittest.TestCase.assertEqual = lambda *a: None\ndef add(a, b): return -1",
}  # fmt: skip
