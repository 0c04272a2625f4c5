"""A process that loses another says which, what happened and what to do."""

import pytest
import torch

from scarches_widgets.nn.ranks import RankLost, Ranks

REPORTS = {  # gloo's own words
    "[transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:40163": "has ended",
    "[transport/tcp/pair.cc:544] Read error [127.0.0.1]:6042: Connection reset by peer": "has ended",
    "[transport/tcp/unbound_buffer.cc:81] Timed out waiting 600000ms for recv operation": "has not answered",
    "Application timeout caused pair closure": "has not answered",
    "unhandled system error": "cannot be reached",
}


@pytest.mark.parametrize("reported", REPORTS)
@pytest.mark.parametrize(
    "rank, size, who", [(0, 2, "process 1"), (1, 2, "process 0"), (2, 3, "a process other than 2")]
)
def test_the_loss_of_a_process_is_told_in_plain_words_with_the_raw_ones_as_cause(
    monkeypatch, reported, rank, size, who
):
    def fail(values):
        raise RuntimeError(reported)

    monkeypatch.setattr("torch.distributed.all_reduce", fail)
    with pytest.raises(RankLost) as lost:
        Ranks(rank, size).sum(torch.ones(2))
    said = str(lost.value)
    assert f"Of the {size} processes" in said and f"{who} {REPORTS[reported]}" in said
    assert f"process {rank} cannot go on" in said and "resume=True" in said
    assert reported not in said and str(lost.value.__cause__) == reported
