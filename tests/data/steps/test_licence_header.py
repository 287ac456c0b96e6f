"""The head goes where it is legal text, and only there."""

from plm.data.steps.licence_header import licence_header


def test_by_hand(run):
    texts = [
        "#!/usr/bin/env python\n# Copyright 2020 A\n#\n# Licensed under X\n\nimport os\n",
        "# What this file is for.\nimport os\n",
        "import os\n# Copyright in the middle stays.\n",
        "# Copyright only.\n",
    ]
    kept = ["import os\n", texts[1], texts[2]]
    assert run(licence_header, texts) == (kept, {"nothing but a licence": 1})
