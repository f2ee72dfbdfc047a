"""What a speculation is compared with: one token at a time."""

N = 14
GREEDY = dict(max_new_tokens=N, do_sample=False, output_logits=True, return_dict_in_generate=True)
PROMPT = "tick tock tick tock tick"


def assert_same(ours, wanted, upto=N):
    """The same token at every position, and logits that differ by rounding only."""
    end = wanted.sequences.shape[1] - N + upto
    assert ours.sequences.tolist() == wanted.sequences[:, :end].tolist()
    assert len(ours.logits) == upto
    for mine, theirs in zip(ours.logits, wanted.logits, strict=False):
        assert (mine - theirs).abs().max() <= 2e-4
