import pytest

from floods_prithvi import config
from geocore.commands import load_settings
from geocore.settings import Settings

COMMANDS = [
    cls for name, cls in vars(config).items() if name.endswith("Settings") and cls.__module__ == config.__name__
]


def _groups(cls):
    return {name: field.default for name, field in cls.model_fields.items() if isinstance(field.default, Settings)}


@pytest.mark.parametrize("cls", [cls for cls in COMMANDS if _groups(cls)], ids=lambda cls: cls.__name__)
def test_one_flag_leaves_its_neighbours_at_the_defaults_of_the_command(cls):
    for group, default in _groups(cls).items():
        for name, value in default:
            given = cls.model_validate({**_required(cls), group: {name: value}})
            assert getattr(given, group) == default, f"{group}.{name}"


def test_a_flag_and_a_file_keep_the_overlap_of_the_task(tmp_path):
    default = config.TrainSettings().tiling
    file = tmp_path / "own.yaml"
    file.write_text(f"tiling: {{size: {2 * default.size}}}\n")
    flag = load_settings(config.TrainSettings, ["--tiling.size", str(2 * default.size)], recipes="floods_prithvi")
    for settings in (flag, load_settings(config.TrainSettings, ["--config", str(file)], recipes="floods_prithvi")):
        assert (settings.tiling.size, settings.tiling.overlap) == (2 * default.size, default.overlap)


def _required(cls):
    texts = {name: "x" for name, field in cls.model_fields.items() if field.is_required()}
    return texts | ({"image": "x", "label": ["x"]} if "image" in cls.model_fields else {})
