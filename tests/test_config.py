"""Config: sizes are derived and checked once, where they come in."""

import dataclasses
import json

import pytest

from decoder import Config

SIZES = dict(d_vocab=29, n_ctx=23, d_model=14, n_heads=7, n_layers=3)


def test_derives_what_is_not_given():
    config = Config(**SIZES)
    assert (config.d_head, config.d_mlp) == (2, 56)


def test_keeps_what_is_given():
    config = Config(**SIZES | dict(n_heads=3, d_head=5, d_mlp=11))  # 14 is no multiple of 3
    assert (config.d_model, config.n_heads, config.d_head, config.d_mlp) == (14, 3, 5, 11)


def test_smallest_sizes_are_allowed():
    assert Config(1, 1, 1, 1, 1) == Config(1, 1, 1, 1, 1, d_head=1, d_mlp=4)


def test_reads_back_from_json():
    config = Config(**SIZES, d_head=5, d_mlp=11)
    sizes = json.loads(json.dumps(config.to_dict()))
    assert sizes == SIZES | dict(d_head=5, d_mlp=11)
    assert Config(**sizes) == config


def test_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config(**SIZES).d_model = 15


@pytest.mark.parametrize("name", [*SIZES, "d_head", "d_mlp"])
@pytest.mark.parametrize("size", [0, -3, 2.0, "7", True, float("nan")])
def test_names_the_size_that_is_wrong(name, size):
    with pytest.raises(ValueError) as error:
        Config(**SIZES | {name: size})
    assert str(error.value) == f"expected {name} to be a positive whole number, got {size!r}"


@pytest.mark.parametrize("name", SIZES)
def test_none_is_not_a_size(name):
    with pytest.raises(ValueError, match=f"expected {name} .* got None"):
        Config(**SIZES | {name: None})


def test_heads_must_divide_the_width_unless_theirs_is_given():
    with pytest.raises(ValueError, match=r"multiple of n_heads.*d_head.*d_model=14, n_heads=5"):
        Config(**SIZES | dict(n_heads=5))
