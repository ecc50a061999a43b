"""Published weights as folders: what counts as the latest, and what a crash or damage leaves."""

from pathlib import Path

import pytest

from services.common.errors import CheckpointError
from services.common.published_weights import Canary, PublishedWeights, latest, publish, version_folder

CANARY = Canary(token_ids=(1, 2), logprobs=(-1.0,))


def write_model(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"weights")


def published(root: Path, version: int) -> PublishedWeights:
    return publish(root, version, [CANARY], write_model)


def damage(root: Path, version: int) -> None:
    (version_folder(root, version) / "model.safetensors").write_bytes(b"damaged")


def test_an_unfinished_publication_is_never_the_latest(tmp_path: Path) -> None:
    def killed_in_the_middle(folder: Path) -> None:
        write_model(folder)
        raise KeyboardInterrupt

    first = published(tmp_path, 1)
    with pytest.raises(KeyboardInterrupt):
        publish(tmp_path, 2, [CANARY], killed_in_the_middle)
    assert latest(tmp_path) == first


def test_where_nothing_was_published_there_is_no_latest(tmp_path: Path) -> None:
    assert latest(tmp_path / "nowhere") is None


def test_damaged_weights_are_passed_over_for_the_last_good_ones(tmp_path: Path) -> None:
    good = [published(tmp_path, version) for version in (1, 2, 3)]
    damage(tmp_path, 3)
    assert latest(tmp_path) == good[1]


def test_where_all_are_damaged_the_newest_is_complained_of(tmp_path: Path) -> None:
    for version in (1, 2):
        published(tmp_path, version)
        damage(tmp_path, version)
    with pytest.raises(CheckpointError, match=r"v00000002/model\.safetensors has checksum"):
        latest(tmp_path)


def test_old_publications_are_dropped(tmp_path: Path) -> None:
    for version in range(6):
        published(tmp_path, version)
    assert sorted(folder.name for folder in tmp_path.iterdir()) == [f"v{v:08d}" for v in (3, 4, 5)]


@pytest.mark.parametrize(("tokens", "logprobs"), [((1,), ()), ((), ()), ((1, 2, 3), (-1.0,)), ((1, 2), (-1.0, -1.0))])
def test_a_canary_has_a_logprob_for_each_token_but_the_first(
    tokens: tuple[int, ...], logprobs: tuple[float, ...]
) -> None:
    with pytest.raises(ValueError, match="a canary of"):
        Canary(tokens, logprobs)
