"""What trainings read of the record of adoptions."""

import json

import pytest

from nnunet_ssl.data.adopted import adopted_share
from nnunet_ssl.errors import InputError


def write(folder, *adoptions, **more):
    (folder / "adopted.json").write_text(json.dumps({"format": 1, "adoptions": adoptions} | more))


def test_the_share_of_the_last_adoption(tmp_path):
    assert adopted_share(tmp_path) == 0
    write(tmp_path)
    assert adopted_share(tmp_path) == 0
    write(tmp_path, {"share_of_suggested": 1.0}, {"share_of_suggested": 0.4})
    assert adopted_share(tmp_path) == 0.4
    write(tmp_path, {"share_of_suggested": 1.0}, {"cases": []})  # as an earlier version wrote it
    assert adopted_share(tmp_path) == 0


@pytest.mark.parametrize("share", ["all", 1.5, -0.1, None])
def test_a_damaged_record_is_refused(tmp_path, share):
    write(tmp_path, {"share_of_suggested": share})
    with pytest.raises(InputError, match="share_of_suggested is .* and no number from 0 to 1; mend it"):
        adopted_share(tmp_path)


def test_a_record_of_another_form_is_refused(tmp_path):
    write(tmp_path, format=2)
    with pytest.raises(InputError, match="has a form that this version does not know"):
        adopted_share(tmp_path)
