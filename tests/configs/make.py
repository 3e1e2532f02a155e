"""Write the released configs again as transformers 5 saves them: python tests/configs/make.py.

Ling 2.5 is left out, since transformers has another model under its model_type; so is what is
but another number format of the same model.
"""

import json
from pathlib import Path

from transformers import AutoConfig

HERE = Path(__file__).parent
LEFT_OUT = ("inclusionAI__Ling-2.5-1T", "zai-org__GLM-5-FP8")


def main() -> None:
    for file in sorted(HERE.glob("*.json")):
        if file.stem not in LEFT_OUT:
            raw = json.loads(file.read_text())
            kind = raw.pop("model_type")
            raw.pop("auto_map", None)
            saved = AutoConfig.for_model(kind, **raw).to_json_string()
            (HERE / "transformers5" / file.name).write_text(saved)
            print(file.name)


if __name__ == "__main__":
    main()
